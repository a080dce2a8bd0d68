//! `equipoise import`.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use equipoise::Ledger;
use tempfile::TempDir;

use crate::data::{account, balances, files, many, on, small, succeeds};
use crate::program::{Ended, equipoise, run};

/// A place for an export and for a new data directory.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Place { dir: tempfile::tempdir().expect("a directory") }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn file(&self, text: &str) -> String {
        let path = self.dir.path().join("export.jsonl");
        fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    }

    fn import(&self, text: &str) -> Ended {
        run(&mut on("import", &self.data(), &[&self.file(text)]))
    }
}

fn export(dir: &Path) -> String {
    succeeds("export", dir, &[]).stdout
}

/// The export with only the first `accounts`.
fn first(export: &str, accounts: usize) -> String {
    let all = export.lines().count() - 1;
    let header = export.lines().next().expect("a header");
    let header = header.replace(&format!(r#""accounts":{all}"#), &format!(r#""accounts":{accounts}"#));
    let mut text = header + "\n";
    export.lines().skip(1).take(accounts).for_each(|line| text += &format!("{line}\n"));
    text
}

#[test]
fn what_was_exported_is_there_again() {
    let dir = small();
    let text = export(dir.path());
    let place = Place::new();
    let ended = place.import(&text);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    let total = i128::from(i64::MAX) + 9_007_199_254_740_993 + 105;
    assert_eq!(ended.stdout, format!("4 accounts, total {total}: 4 opened, 0 were there already; sequence 4\n"));
    let again = succeeds("export", &place.data(), &[]).json();
    assert_eq!(balances(&again), balances(&succeeds("export", dir.path(), &[]).json()));
    assert!(again.iter().skip(1).all(|account| account["version"] == 1));
    succeeds("verify", &place.data(), &[]);
}

#[test]
fn stdin_is_read_when_there_is_no_file() {
    let dir = many(3_000);
    let place = Place::new();
    let mut child = on("import", &place.data(), &["--json"])
        .env("TMPDIR", place.dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runs");
    child.stdin.take().expect("piped").write_all(export(dir.path()).as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ends");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&summary["accounts"], &summary["total"]), (&3_000.into(), &4_501_500.into()));
    assert_eq!(fs::read_dir(place.dir.path()).expect("a folder").count(), 1, "no temporary file is left");
}

#[test]
fn a_second_import_opens_nothing() {
    let dir = many(2_000);
    let text = export(dir.path());
    let place = Place::new();
    place.import(&text);
    for _ in 0..2 {
        let ended = place.import(&text);
        assert_eq!(ended.stderr, "");
        assert!(ended.stdout.contains("total 2001000: 0 opened, 2000 were there already"), "{ended:?}");
    }
    assert_eq!(balances(&succeeds("export", &place.data(), &[]).json()).len(), 2_000);
}

#[test]
fn an_interrupted_import_is_run_again() {
    let dir = many(1_000);
    let text = export(dir.path());
    let place = Place::new();
    assert_eq!(place.import(&first(&text, 400)).code, Some(0));
    let ended = place.import(&text);
    assert!(ended.stdout.contains("total 500500: 600 opened, 400 were there already"), "{ended:?}");
}

/// Wherever kill -9 comes, the same import goes on.
#[test]
fn a_killed_import_is_run_again() {
    let dir = many(6_000);
    let text = export(dir.path());
    for wait in [10, 100, 200] {
        let place = Place::new();
        let mut child = on("import", &place.data(), &[&place.file(&text)]).stdout(Stdio::null()).spawn().expect("runs");
        std::thread::sleep(Duration::from_millis(wait));
        let _ = child.kill();
        child.wait().expect("ends");
        let ended = place.import(&text);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "killed after {wait} ms: {ended:?}");
        assert!(ended.stdout.starts_with("6000 accounts, total 18003000: "), "{ended:?}");
        assert_eq!(balances(&succeeds("export", &place.data(), &[]).json()).len(), 6_000);
    }
}

#[test]
fn an_account_with_another_history_is_named_and_nothing_opened() {
    let dir = many(10);
    let text = export(dir.path());
    let (changed, foreign, ours) = (Place::new(), Place::new(), Place::new());
    {
        // The same account with the same balance, and somebody else's.
        let ledger = Ledger::open(foreign.data()).expect("opens");
        ledger.create(&account("account-000007"), 8).expect("new");
        // Another account is none of ours.
        Ledger::open(ours.data()).expect("opens").create(&account("other"), 5).expect("new");
    }
    let ended = foreign.import(&text);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
    let expected =
        "error: line 9: account account-000007 is there already with another history: balance 8, version 1\n";
    assert_eq!(ended.stderr, expected);
    assert_eq!(balances(&succeeds("export", &foreign.data(), &[]).json()).len(), 1);

    assert_eq!(changed.import(&text.replace(r#""balance":8,"#, r#""balance":9,"#)).code, Some(0));
    assert_eq!(changed.import(&text).code, Some(1));

    let ended = ours.import(&text);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.stdout.contains("10 accounts, total 55: 10 opened"), "{ended:?}");
}

/// B1: what is done again in a copy that an import made is told before.
#[test]
fn help_says_that_ids_are_not_taken_over() {
    for name in ["export", "import"] {
        let help = run(&mut equipoise(&[name, "--help"])).stdout;
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("a request") && help.contains("runs again. To keep them, stop the service"), "{help}");
    }
}

/// What root makes, the user whom the directory belongs to cannot open: it is warned, also of a new one's parent.
#[test]
fn root_is_warned_of_a_directory_of_somebody_else() {
    const STRANGER: u32 = 54_321;
    let text = export(small().path());
    for new in [false, true] {
        let place = Place::new();
        if !new {
            fs::create_dir(place.data()).expect("a directory");
        }
        let theirs = if new { place.dir.path().to_owned() } else { place.data() };
        // Only root can give it away, and whoever is not does not need the warning.
        let given = chown(&theirs, Some(STRANGER), Some(STRANGER)).is_ok();
        let named = |ended: &Ended| ended.stderr.contains(&format!("{} belongs to the user 54321", theirs.display()));
        let ended = place.import(&text);
        assert_eq!((ended.code, named(&ended)), (Some(0), given), "{ended:?}");
        if !new {
            let ended = run(&mut on("compact", &place.data(), &["--dry-run"]));
            assert_eq!((ended.code, named(&ended)), (Some(0), given), "{ended:?}");
        }
    }
    // Whoever owns a place for everybody is not whom the new directory is for.
    let place = Place::new();
    if chown(place.dir.path(), Some(STRANGER), Some(STRANGER)).is_ok() {
        fs::set_permissions(place.dir.path(), Permissions::from_mode(0o1777)).expect("root may");
        let ended = place.import(&text);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    }
}

/// Case A14: the second exits at once, names who has it, and touches nothing.
#[test]
fn a14_a_directory_in_use_is_refused() {
    let place = Place::new();
    let text = export(many(3).path());
    let ledger = Ledger::open(place.data()).expect("opens");
    // The ledger makes its next segment meanwhile.
    let mine = || files(&place.data()).into_iter().filter(|(name, _)| !name.contains("spare")).collect::<Vec<_>>();
    let before = mine();
    for arguments in [&[place.file(&text).as_str()][..], &[]] {
        let ended = run(&mut on("import", &place.data(), arguments));
        assert_eq!(ended.code, Some(4));
        let expected = format!("{} is in use by process {}", place.data().display(), std::process::id());
        assert!(ended.stderr.contains(&expected), "{ended:?}");
    }
    assert!(before == mine());
    drop(ledger);
}

#[test]
fn a_malformed_line_is_named_and_no_directory_made() {
    let text = export(many(3).path());
    let line = r#"{"account_id":"account-000001","balance":2,"version":1,"sequence":2}"#;
    assert!(text.contains(line));
    let cases = [
        (
            r#"{"account_id":"account-000001","balance":-2}"#,
            "line 3: balance must be a whole number from 0 to 9223372036854775807, got -2",
        ),
        (
            r#"{"account_id":"account-000001","balance":"2"}"#,
            r#"line 3: balance must be a whole number from 0 to 9223372036854775807, got "2""#,
        ),
        (r#"{"account_id":"account-000001","balance":2e0}"#, "line 3: balance must be a whole number"),
        (r#"{"account_id":"account-000001","balance":9223372036854775808}"#, "got 9223372036854775808"),
        (r#"{"account_id":"account-000001","balance":2,"balance":3}"#, "line 3: duplicate field `balance`: {"),
        (r#"{"account_id":"account-000001","balances":2}"#, "line 3: unknown field `balances`"),
        (r#"{"account_id":"account-000001"}"#, "line 3: missing field `balance`"),
        (
            r#"{"account_id":"account-000001","balance":2,"version":0}"#,
            "line 3: version must be a whole number from 1, got 0",
        ),
        (r#"["account-000001",2,1,2]"#, r#"line 3: expected an object: ["account-000001",2,1,2]"#),
        (
            r#"{"account_id":"account-000001","balance":2,"version":1,"sequence":4}"#,
            "line 3: sequence must be at most the header's, 3, got 4",
        ),
        (r#"{"account_id":"","balance":2}"#, r#"line 3: account_id must be 1 to 128 bytes long, got 0: """#),
        (r#"{"account_id":7,"balance":2}"#, "line 3: account_id must be a text, got 7"),
        (
            r#"{"account_id":"account-000000","balance":2}"#,
            r#"line 3: account_id must be after "account-000000" in the order of bytes, got "account-000000""#,
        ),
        (r#"{"account_id":"account-0000"#, "line 3: EOF while parsing a string"),
        ("", "line 3: EOF while parsing a value"),
    ];
    for (odd, expected) in cases {
        let place = Place::new();
        let ended = place.import(&text.replace(line, odd));
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{odd}: {ended:?}");
        assert!(ended.stderr.contains(expected), "{odd}: {ended:?}");
        assert!(!place.data().exists());
    }
}

#[test]
fn a_cut_or_foreign_file_is_refused() {
    let text = export(many(3).path());
    let cut: String = text.lines().take(3).map(|line| format!("{line}\n")).collect();
    let more = format!("{text}{}\n", r#"{"account_id":"z","balance":2}"#);
    let entries = succeeds("export", many(1).path(), &["--entries"]).stdout;
    let cases = [
        (cut, "line 4: the header says 3 accounts, and the input ends before: 2"),
        (more, "line 5: the header says 3 accounts, and more follow: 4"),
        (text.replace(r#""version":1,"ledger""#, r#""version":2,"ledger""#), "line 1: version must be 1, got 2"),
        (entries, "line 1: "),
        (String::new(), "the input is empty"),
        ("\u{0}\u{1}".repeat(40_000), "line 1 is longer than 16384 bytes"),
    ];
    for (text, expected) in cases {
        let place = Place::new();
        let ended = place.import(&text);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:?}");
        assert!(ended.stderr.contains(expected), "{ended:?}");
        assert!(!place.data().exists());
    }
    // A directory that is there stays as it is.
    let there = small();
    let before = files(there.path());
    assert_eq!(run(&mut on("import", there.path(), &["/nowhere"])).code, Some(2));
    assert!(before == files(there.path()));
    let missing = run(&mut on("import", &Place::new().data(), &["/nowhere"]));
    assert_eq!((missing.code, missing.stderr.contains("cannot read /nowhere")), (Some(2), true), "{missing:?}");
}
