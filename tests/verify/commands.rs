//! The commands: exit codes, both streams, a closed pipe. Case A20.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::sources::noted;
use crate::writer::{Entry, Writer, create, sample, update};

fn run(arguments: &[&str], directory: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_equipoise"))
        .args([arguments[0], directory.to_str().expect("UTF-8")])
        .args(&arguments[1..])
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn verify_says_what_it_found() {
    let writer = sample("cli");
    let head = blake3::Hash::from_bytes(writer.hash).to_hex().to_string();
    let (code, stdout, stderr) = run(&["verify"], writer.write());
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.contains("sequences    1 to 12\n") && stdout.contains(&head), "{stdout}");

    let (code, stdout, stderr) = run(&["verify", "--json", "--head", &head], &writer.directory);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let report = &lines(&stdout)[0];
    assert_eq!((&report["head"], &report["accounts"]), (&Value::from(head), &Value::from(3)), "{report}");
    assert!(stdout.contains(r#""total":9223372036854775914"#), "{stdout}");
}

/// D3: what is noted of sources is shown and counted.
#[test]
fn notes_are_shown_and_counted() {
    let writer = noted("cli-notes");
    let (code, stdout, _) = run(&["inspect", "--json"], writer.write());
    let lines_of = |kind: &str| lines(&stdout).into_iter().filter(|line| line["type"] == kind).collect::<Vec<_>>();
    assert_eq!(code, Some(0));
    let positions = lines_of("position");
    assert_eq!((positions.len(), &positions[0]["source"]), (2, &Value::from("kafka/t/0")));
    assert_eq!((&positions[0]["next"], &positions[0]["fingerprint"]), (&Value::from(5), &Value::from(-1)));
    let parked: Vec<_> =
        lines_of("parked").iter().map(|line| line["record"].as_u64().zip(line["bytes"].as_u64())).collect();
    assert_eq!(parked, [Some((1, 3)), Some((2, 0)), Some((3, 300))]);
    assert_eq!(lines_of("unparked")[0]["record"], 1);
    // From the middle of what is cut over two batches on, nothing is made up.
    let (code, stdout, _) = run(&["inspect", "--from", "2"], &writer.directory);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("record 1 taken back\n") && !stdout.contains("kafka/t/0"), "{stdout}");
    assert!(stdout.contains("0 entries from sequence 3  "), "{stdout}");

    for (command, count) in [("verify", "sources      2, 2 records parked\n"), ("stats", "2, 2 records parked\n")] {
        let (code, stdout, stderr) = run(&[command], &writer.directory);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains(count), "{stdout}");
    }
}

#[test]
fn verify_ends_with_4_at_the_first_bad_place() {
    let mut writer = sample("cli-bad");
    let (number, offset) = writer.batches[1];
    writer.segments.get_mut(&number).expect("a segment")[offset + 48] ^= 1;
    let (code, stdout, stderr) = run(&["verify"], writer.write());
    assert_eq!((code, stdout.as_str()), (Some(4), ""));
    assert!(stderr.starts_with("error: ") && stderr.contains(&format!(", offset {offset} (batch 2, sequence 4): ")));

    let (code, _, stderr) = run(&["verify", "--json"], &writer.directory);
    assert_eq!(code, Some(4));
    let error = &lines(&stderr)[0]["error"];
    assert_eq!((&error["code"], &error["exit"]), (&Value::from("DATA_LOSS"), &Value::from(4)), "{error}");
    assert_eq!((&error["offset"], &error["batch"]), (&Value::from(offset), &Value::from(2)), "{error}");

    let (code, _, stderr) = run(&["verify", "--json"], Path::new("/nowhere"));
    assert_eq!((code, &lines(&stderr)[0]["error"]["code"]), (Some(4), &Value::from("INTERNAL")), "{stderr}");

    let (code, _, stderr) = run(&["verify", "--head", "abc"], &writer.directory);
    assert_eq!(code, Some(2));
    assert!(stderr.contains("64 hexadecimal digits"), "{stderr}");
}

#[test]
fn verify_notes_a_torn_tail() {
    let mut writer = sample("cli-torn");
    let (number, offset) = *writer.batches.last().expect("a batch");
    writer.segments.get_mut(&number).expect("a segment").truncate(offset + 40);
    let (code, stdout, _) = run(&["verify"], writer.write());
    assert_eq!(code, Some(0));
    let note = format!("0000000002.segment offset {offset}, ");
    assert!(stdout.contains("torn tail at ") && stdout.contains(&note), "{stdout}");
}

/// Beside a running service the journal is checked up to now.
#[test]
fn verify_beside_a_service() {
    let writer = sample("cli-live");
    let lock = OpenOptions::new().write(true).open(writer.write().join("LOCK")).expect("a file");
    lock.try_lock().expect("nobody else has it");
    std::fs::create_dir(writer.directory.join("ids")).expect("a folder");
    let (code, stdout, _) = run(&["verify"], &writer.directory);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("process 4711 has the directory: this is the journal up to now"), "{stdout}");
    assert_eq!(std::fs::read_dir(writer.directory.join("ids")).expect("a folder").count(), 0, "nothing was put there");
}

/// A batch that the service is just writing is waited for, or left out.
#[test]
fn verify_while_a_batch_is_written() {
    let writer = sample("cli-writing");
    let directory = writer.write();
    let lock = OpenOptions::new().write(true).open(directory.join("LOCK")).expect("a file");
    lock.try_lock().expect("nobody else has it");
    let (number, offset) = writer.batches[4];
    let bytes = &writer.segments[&number];
    let path = directory.join(format!("journal/{number:010}.segment"));
    let segment = OpenOptions::new().write(true).open(path).expect("a file");
    segment.write_all_at(&vec![0; bytes.len() - offset - 20], offset as u64 + 20).expect("written");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            segment.write_all_at(&bytes[offset..], offset as u64).expect("written");
        });
        let report = crate::writer::check(directory).expect("a prefix of the journal is nothing wrong");
        let torn = report.notes.iter().any(|note| note.contains("the service is writing there"));
        assert_eq!(report.batches, if torn { 4 } else { 6 }, "{report:?}");
    });
}

#[test]
fn inspect_prints_segments_batches_and_entries() {
    let mut writer = sample("inspect");
    writer.segment();
    writer.batch(&[Entry::of(&[create("a\u{202e}b", "\u{200b}-5", 1, (1, 1))])]);
    let (code, stdout, stderr) = run(&["inspect"], writer.write());
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(stdout.lines().filter(|line| line.starts_with("segment ")).count(), 3, "{stdout}");
    assert_eq!(stdout.lines().filter(|line| line.starts_with("batch ")).count(), 7, "{stdout}");
    assert!(stdout.ends_with("end of the journal: batch 8, sequence 14 come next\n"), "{stdout}");

    let (_, stdout, _) = run(&["inspect", "--from", "13"], &writer.directory);
    assert!(stdout.contains(r"create  a\u{202e}b") && stdout.contains(r"+1 -> 1 (version 1)  \u{200b}-5"), "{stdout}");
    assert_eq!(stdout.lines().count(), 6, "{stdout}");

    let (_, stdout, _) = run(&["inspect", "--from", "4", "--limit", "2", "--json"], &writer.directory);
    let lines = lines(&stdout);
    let entries: Vec<_> = lines.iter().filter(|line| line["type"] == "entry").collect();
    assert_eq!(entries.iter().map(|entry| entry["sequence"].as_u64()).collect::<Vec<_>>(), [Some(4), Some(5)]);
    assert_eq!(entries[0]["refusal"]["reason"], "Insufficient");
    assert_eq!(entries[1]["refusal"]["as_of"], 4);
    assert_eq!(entries[0]["members"][0]["legs"][0]["delta"], -71);
}

/// What can be read is printed before the complaint.
#[test]
fn inspect_goes_up_to_the_first_bad_place() {
    let mut writer = sample("inspect-bad");
    let (number, offset) = writer.batches[1];
    writer.segments.get_mut(&number).expect("a segment")[offset] ^= 1;
    let (code, stdout, stderr) = run(&["inspect"], writer.write());
    assert_eq!((code, stdout.lines().count()), (Some(4), 2), "{stdout}");
    assert!(stderr.contains("neither a batch nor the end of the segment"), "{stderr}");
}

/// Case A20: a closed pipe is quiet, a full disk is not.
#[test]
fn pipes_that_close_and_disks_that_are_full() {
    let mut writer = Writer::new("inspect-pipe");
    writer.segment_bytes = 4 << 20;
    writer.segments.clear();
    writer.segment();
    writer.batch(&[Entry::of(&[create("", "a", 0, (0, 1))])]);
    let more: Vec<_> = (1..20_000).map(|n| Entry::of(&[update("", "a", 1, (n, n as u64 + 1))])).collect();
    writer.batch(&more);
    let command = |stdout: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_equipoise"));
        command.arg("inspect").arg(&writer.directory).args(["--json", "--limit", "30000"]);
        command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("the binary runs")
    };
    writer.write();
    let mut child = command(Stdio::piped());
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 100]).expect("some output");
    drop(stdout);
    let output = child.wait_with_output().expect("an end");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    let full = File::options().write(true).open("/dev/full").expect("a device");
    let output = command(full.into()).wait_with_output().expect("an end");
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the output"), "{output:?}");
}
