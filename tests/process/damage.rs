//! Case A12, with real files and the real binary: a torn tail is cut and written on, damage is refused and left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use equipoise::grpc::proto::operation::Operation as Kind;
use equipoise::grpc::proto::{ExecuteBatchRequest, Operation, UpdateBalanceRequest};
use equipoise::verify::{Options, verify};

use crate::audit::{Audit, Told};
use crate::client::Order;
use crate::load::Dice;
use crate::service::{Service, equipoise, run, serve_with, verified};

/// Checkpoints would hold the journal to a tail that is cut here.
const NONE: &[&str] = &["--checkpoint-every", "100000000"];
const NEWEST: &str = "journal/0000000002.segment";
const OLDER: &str = "journal/0000000001.segment";
/// Of a segment.
const HEADER: usize = 4_096;

/// A directory that a service left when it was killed: a full segment, and one with 100 operations, each acknowledged.
struct Original {
    dir: tempfile::TempDir,
    told: Told,
}

impl Original {
    fn get() -> &'static Self {
        static ORIGINAL: OnceLock<Original> = OnceLock::new();
        ORIGINAL.get_or_init(|| {
            let make = || tokio::runtime::Runtime::new().unwrap().block_on(Original::make());
            // A runtime does not run inside another one.
            std::thread::scope(|scope| scope.spawn(make).join().unwrap())
        })
    }

    async fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::start(&mut serve_with(dir.path(), NONE));
        let client = service.client().await;
        Order::create("", "a", 0).send(&client).await.unwrap();
        for batch in 0_u64.. {
            if batch > 0 && fs::exists(dir.path().join(NEWEST)).unwrap() {
                break;
            }
            let update = |number| {
                let transaction_id = format!("filler-{batch}-{number:0>100}");
                let update = UpdateBalanceRequest { account_id: "a".into(), delta: 1, transaction_id };
                Operation { operation: Some(Kind::UpdateBalance(update)), linked: false }
            };
            let request = ExecuteBatchRequest { operations: (0..400).map(update).collect() };
            client.clone().execute_batch(request).await.unwrap();
        }
        let mut told = Told::default();
        for number in 0..100 {
            let order = Order::update(&format!("ack-{number}"), "a", 1);
            let answers = order.send(&client).await.unwrap();
            told.answered.push((order, answers));
        }
        service.kill();
        Original { dir, told }
    }

    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(self.dir.path(), copy.path());
        copy
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file under `dir`, with its bytes' hash.
fn tree(dir: &Path) -> Vec<(PathBuf, u64, blake3::Hash)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            files.extend(tree(&entry.path()));
        } else {
            let bytes = fs::read(entry.path()).unwrap();
            files.push((entry.path(), bytes.len() as u64, blake3::hash(&bytes)));
        }
    }
    files.sort_by(|one, other| one.0.cmp(&other.0));
    files
}

/// Where the written part of a segment ends, nearly: the last byte that is not zero.
fn end(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

/// What stands between the two, after what comes before them in some line.
fn between<'a>(lines: impl IntoIterator<Item = &'a str>, before: &str, after: &str) -> Option<String> {
    let told = lines.into_iter().find_map(|line| line.split_once(before))?.1;
    Some(told.split_once(after).map_or(told, |(told, _)| told).replace(" at offset ", " offset "))
}

/// Starts on a copy with a torn tail: a prefix of the journal is there, and what is written behind it stays. Returns
/// the place of the tail, of which `verify` and the start say the same, if there is one to be told of.
async fn written_on(what: &str, tear: impl FnOnce(&mut Vec<u8>)) -> Option<String> {
    println!("{what}");
    let original = Original::get();
    let copy = original.copy();
    let segment = copy.path().join(NEWEST);
    let mut bytes = fs::read(&segment).unwrap();
    tear(&mut bytes);
    fs::write(&segment, bytes).unwrap();
    let notes = verified(copy.path()).notes;
    let torn = between(notes.iter().map(String::as_str), "torn tail at ", ": ");
    let (code, said) = run(&mut equipoise(&["verify", copy.path().to_str().unwrap()]));
    assert_eq!(code, Some(0), "{what}: {said}");
    let service = Service::start(&mut serve_with(copy.path(), NONE));
    let client = service.client().await;
    let mut audit = Audit::default();
    audit.read(&client).await;
    let lost = original.told.answered.iter().position(|(order, _)| !audit.knows(&order.steps[0].0)).unwrap_or(100);
    let mut told = Told::default();
    told.answered = original.told.answered[..lost].to_vec();
    assert!(original.told.answered[lost..].iter().all(|(order, _)| !audit.knows(&order.steps[0].0)), "a prefix");
    for number in 0..10 {
        let order = Order::update(&format!("later-{number}"), "a", 1);
        let answers = order.send(&client).await.unwrap();
        told.answered.push((order, answers));
    }
    if torn.is_some() {
        service.says("cut a torn tail off").await;
    }
    let said = service.kill();
    let cut = between(said.lines(), "cut a torn tail off the journal: ", "\"");
    assert_eq!(torn, cut, "{what}: verify noted {notes:?}, the start said {said}");
    assert!(!verified(copy.path()).notes.iter().any(|note| note.starts_with("torn tail at ")), "{what}");
    let service = Service::start(&mut serve_with(copy.path(), NONE));
    let client = service.client().await;
    audit.read(&client).await;
    audit.check(&told);
    audit.compare(&client, &Told::default()).await;
    service.stop();
    verified(copy.path());
    torn
}

/// E6, C1: the newest segment may be torn in any way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_is_cut_and_written_on() {
    let mut dice = Dice::of_today("a_torn_tail");
    let frames = 600;
    for k in [1, 8, 9, 200, 1 + dice.roll(frames) as usize] {
        let torn = written_on(&format!("cut {k} bytes short"), |bytes| bytes.truncate(end(bytes) - k)).await;
        assert!(torn.is_some(), "cut {k} bytes short");
        written_on(&format!("the last {k} bytes zeroed"), |bytes| {
            let end = end(bytes);
            bytes[end - k..end].fill(0);
        })
        .await;
    }
    for k in [3, 1 + dice.roll(frames) as usize] {
        let what = format!("the last {k} bytes overwritten at random");
        let overwrite = |bytes: &mut Vec<u8>| {
            let end = end(bytes);
            bytes[end - k..end].fill_with(|| 1 + dice.roll(255) as u8);
        };
        assert!(written_on(&what, overwrite).await.is_some(), "{what}");
    }
    assert_eq!(written_on("0 bytes", Vec::clear).await, None);
    assert_eq!(written_on("a part of a header", |bytes| bytes.truncate(100)).await, None);
    assert_eq!(written_on("only zeros", |bytes| bytes.fill(0)).await, None);
    assert_eq!(written_on("a header, and zeros", |bytes| bytes[HEADER..].fill(0)).await, None);
    assert_eq!(written_on("half a header, and zeros", |bytes| bytes[60..].fill(0)).await, None);
    let garbage = written_on("garbage behind the end", |bytes| {
        let end = end(bytes).next_multiple_of(8);
        bytes[end..end + 100].fill_with(|| 1 + dice.roll(255) as u8);
    });
    assert!(garbage.await.is_some());
}

/// E6, C1: a newest segment of a wrong length is a torn tail, wherever it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_of_another_length_is_cut_and_written_on() {
    let length = fs::read(Original::get().dir.path().join(NEWEST)).unwrap().len();
    let ends = |torn: Option<String>, place: usize, bytes: usize| {
        let expected = format!("{NEWEST} offset {place}, {bytes} bytes");
        assert!(torn.as_ref().is_some_and(|torn| torn.ends_with(&expected)), "{torn:?}, not {expected}");
    };
    for at in [2_000, HEADER] {
        ends(written_on(&format!("cut to {at}"), |bytes| bytes.truncate(at)).await, at, 0);
    }
    // A batch may end with zeros, but no more than these.
    for behind in [16, 100, 5_000] {
        let mut at = 0;
        let cut = |bytes: &mut Vec<u8>| {
            at = end(bytes) + behind;
            bytes.truncate(at);
        };
        let torn = written_on(&format!("cut {behind} bytes behind the end"), cut).await;
        ends(torn, at, 0);
    }
    ends(written_on("the last byte cut", |bytes| bytes.truncate(length - 1)).await, length - 1, 0);
    ends(written_on("one byte appended", |bytes| bytes.push(1)).await, length, 1);
    ends(written_on("a page of zeros appended", |bytes| bytes.resize(length + 4_096, 0)).await, length, 4_096);
}

/// Starts on a copy with a damaged file: it is refused, with file and offset, as `verify` has it, and left alone.
fn left_alone(what: &str, name: &str, damage: impl FnOnce(&mut Vec<u8>)) {
    println!("{what}");
    let copy = Original::get().copy();
    let file = copy.path().join(name);
    let mut bytes = fs::read(&file).unwrap();
    damage(&mut bytes);
    fs::write(&file, bytes).unwrap();
    let before = tree(copy.path());
    let problem = verify(copy.path(), &Options::default(), &mut |_, _| {}).expect_err(what);
    let (named, offset) = (problem.file.display(), problem.offset.expect("a place"));
    let (code, said) = run(&mut equipoise(&["verify", copy.path().to_str().unwrap()]));
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains(&format!("{named}, offset {offset}")), "{what}: {said}");
    let (code, said) = run(&mut serve_with(copy.path(), NONE));
    assert_eq!(code, Some(4), "{what}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    let error = said.lines().last().unwrap();
    let place = format!("error: {named} is damaged at offset {offset}: ");
    assert!(error.starts_with(&place), "{what}: {error}, but verify: {problem}");
    assert!(tree(copy.path()) == before, "{what}: something was changed");
}

/// E6, C3: the same in an older segment is damage.
#[test]
fn an_older_segment_is_left_alone() {
    let mut dice = Dice::of_today("an_older_segment");
    for k in [1, 8, 50, 200, 300, 550] {
        left_alone(&format!("cut {k} bytes short"), OLDER, |bytes| bytes.truncate(end(bytes) - k));
        left_alone(&format!("the last {k} bytes zeroed"), OLDER, |bytes| {
            let end = end(bytes);
            bytes[end - k..end].fill(0);
        });
        left_alone(&format!("the last {k} bytes overwritten"), OLDER, |bytes| {
            let end = end(bytes);
            bytes[end - k..end].iter_mut().for_each(|byte| *byte = !*byte);
        });
    }
    for _ in 0..3 {
        left_alone("one bit", OLDER, |bytes| {
            let at = HEADER + dice.roll((end(bytes) - HEADER) as u64) as usize;
            println!("at {at}");
            bytes[at] ^= 1 << dice.roll(8);
        });
    }
    left_alone("the last byte cut", OLDER, |bytes| bytes.truncate(bytes.len() - 1));
    left_alone("one byte appended", OLDER, |bytes| bytes.push(1));
    left_alone("0 bytes", OLDER, Vec::clear);
    left_alone("a part of a header", OLDER, |bytes| bytes.truncate(2_000));
    left_alone("only zeros", OLDER, |bytes| bytes.fill(0));
    left_alone("only a header", OLDER, |bytes| bytes.truncate(HEADER));
    left_alone("its header", OLDER, |bytes| bytes[20] ^= 1);
    left_alone("its first bytes", OLDER, |bytes| bytes[0] ^= 1);
}

/// E6: a batch in the middle of the newest segment, with good ones after it, is damage too.
#[test]
fn the_middle_of_the_newest_segment_is_left_alone() {
    left_alone("the first batch", NEWEST, |bytes| bytes[HEADER + 100] ^= 1);
    left_alone("a header of a segment that holds something", NEWEST, |bytes| bytes[20] ^= 1);
}
