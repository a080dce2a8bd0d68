//! Keeps the tree as CONTRIBUTING.md says it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The longest file in `src`, in lines: past that it has two nouns in it.
const LONGEST_FILE: usize = 500;

/// The rows of the requirements that hold by now.
/// B6, C5 and D10 are measured, by `benches/durable/ids.rs`, `benches/grpc/durable.rs` and `benches/inventory/rates.rs`.
const REQUIREMENTS: [&str; 42] = [
    "A1", "A2", "A3", "A4", "A5", "A6", "A7", "A8", "A9", "A10", "A11", "A12", "A13", "A14", "A15", "B1", "B2", "B3",
    "B4", "B5", "B7", "C1", "C2", "C3", "C4", "C6", "D1", "D2", "D3", "D4", "D5", "D6", "D7", "D8", "D9", "E1", "E2",
    "E3", "E4", "E5", "E6", "E7",
];

/// What the scripts must mention: the model checkers and ThreadSanitizer.
const RACE_CHECKERS: [&str; 3] = ["loom", "shuttle", "thread"];

/// Which of our modules a module may name. What is not listed here may name everything.
const LAYERS: [(&str, &[&str]); 38] = [
    ("kernel", &["kernel"]),
    ("blocking", &[]),
    ("folder", &[]),
    ("format", &[]),
    // The domain: plain data. Of the kernel it knows what a state is, and an outcome the handle that it reads.
    ("account", &["account", "error", "request", "kernel::State"]),
    ("request", &["account", "error", "request"]),
    ("error", &["account", "error", "request"]),
    ("outcome", &["account", "error", "request", "outcome", "kernel::State", "kernel::Handle", "kernel::Refused"]),
    ("plan", &["account", "error", "request", "plan", "directory", "kernel"]),
    ("restoration", &["account", "directory", "error", "journal", "kernel"]),
    ("directory", &["account", "error", "directory", "kernel"]),
    ("ids", &["account", "blocking", "error", "folder", "format", "request", "ids", "kernel"]),
    ("wait", &["wait", "foreign"]),
    ("foreign", &["event"]),
    ("opening", &["opening"]),
    ("event", &["event"]),
    ("clock", &["clock"]),
    ("lock", &["folder", "lock", "opening"]),
    ("site", &["folder", "lock", "opening", "site"]),
    (
        "journal",
        &[
            "account", "blocking", "clock", "error", "event", "folder", "foreign", "format", "request", "outcome",
            "opening", "lock", "site", "journal", "wait", "kernel",
        ],
    ),
    // The ledger's own parts.
    ("core", ENGINE),
    ("submission", ENGINE),
    ("snapshot", ENGINE),
    ("handle", ENGINE),
    ("upkeep", ENGINE),
    ("builder", ENGINE),
    ("ledger", ENGINE),
    // The doors: the engine through its public names only.
    ("grpc", &["grpc", "postgres"]),
    ("inventory", &["inventory"]),
    ("kafka", &["kafka", "inventory"]),
    ("monitor", &["monitor"]),
    ("bench", &["bench", "grpc", "monitor"]),
    ("config", &["config"]),
    ("telemetry", &["telemetry", "config"]),
    // Keeps what the engine decides, in the engine's own words.
    (
        "postgres",
        &["postgres", "inventory", "account", "error", "request", "outcome", "kernel::State", "kernel::Refused"],
    ),
    (
        "cli",
        &[
            "cli",
            "bench",
            "grpc",
            "config",
            "telemetry",
            "monitor",
            "inventory",
            "kafka",
            "postgres",
            "ledger",
            "compact",
            "verify",
        ],
    ),
    // Shares nothing with what it checks.
    ("verify", &["verify"]),
    ("main", &[]),
];

const ENGINE: &[&str] = &[
    "blocking",
    "folder",
    "foreign",
    "restoration",
    "account",
    "request",
    "error",
    "outcome",
    "plan",
    "directory",
    "ids",
    "wait",
    "opening",
    "event",
    "clock",
    "lock",
    "site",
    "journal",
    "core",
    "upkeep",
    "snapshot",
    "handle",
    "builder",
    "ledger",
    "kernel",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under `folder`, relative to the package, with its text.
fn rust_files(folder: &str) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                files.insert(path.strip_prefix(root()).expect("under the package").to_owned(), text);
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has Rust files");
    files
}

/// The text with comments, strings and characters blanked out; lines stay where they are.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest, code.chars().last());
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// How many bytes of `rest` are a comment, a string or a character; 0 when it begins with code.
fn skipped(rest: &str, before: Option<char>) -> usize {
    let until = |from: usize, end: &str| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    let word_before = before.is_some_and(|before| before.is_alphanumeric() || before == '_');
    let bytes = rest.as_bytes();
    match bytes[0] {
        b'/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
        b'/' if rest.starts_with("/*") => until(2, "*/"),
        b'"' => {
            let mut at = 1;
            while at < bytes.len() && bytes[at] != b'"' {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            (at + 1).min(rest.len())
        }
        b'r' if !word_before => {
            let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
            let end = format!("\"{}", "#".repeat(hashes));
            if bytes.get(1 + hashes) == Some(&b'"') { until(2 + hashes, &end) } else { 0 }
        }
        b'\'' => {
            // A character, not a lifetime: it ends within two characters, or begins with a backslash.
            let mut characters = rest.char_indices().skip(1);
            match (characters.next(), characters.next()) {
                (Some((_, '\\')), _) => until(3, "'"),
                (Some(_), Some((at, '\''))) => at + 1,
                _ => 0,
            }
        }
        _ => 0,
    }
}

/// The words of `code`, with the line of each.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let word = |character: char| character.is_alphanumeric() || character == '_';
    code.lines().enumerate().flat_map(move |(line, text)| {
        text.split(move |character| !word(character)).filter(|word| !word.is_empty()).map(move |word| (line + 1, word))
    })
}

fn in_kernel(path: &Path) -> bool {
    path.starts_with("src/kernel")
}

fn none_of(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// E5: all unsafe code, all atomics and every memory ordering are in the kernel.
#[test]
fn only_the_kernel_is_unsafe_and_atomic() {
    let mut complaints = Vec::new();
    let mut met_in_kernel = BTreeSet::new();
    for (path, text) in rust_files("src") {
        let code = code(&text);
        let orderings = ["Relaxed", "Acquire", "Release", "AcqRel", "SeqCst"];
        let atomic = |word: &str| word == "atomic" || word.starts_with("Atomic") || orderings.contains(&word);
        for (line, word) in words(&code).filter(|(_, word)| *word == "unsafe" || atomic(word)) {
            if in_kernel(&path) {
                met_in_kernel.insert(word.to_owned());
            } else {
                complaints.push(format!("{}:{line}: `{word}` outside src/kernel", path.display()));
            }
        }
    }
    none_of(complaints);
    for word in ["unsafe", "atomic", "Acquire"] {
        assert!(met_in_kernel.contains(word), "this test finds `{word}` where it is");
    }
}

/// E5: every block of unsafe code says on which invariant it stands.
#[test]
fn unsafe_code_says_why_it_is_safe() {
    let mut complaints = Vec::new();
    for (path, text) in rust_files("src") {
        let lines: Vec<_> = text.lines().collect();
        let code = code(&text);
        for (line, _) in words(&code).filter(|(_, word)| *word == "unsafe") {
            let own = lines[line - 1];
            if own.trim_start().starts_with("pub") && own.contains("unsafe fn")
                || own.trim_start().starts_with("unsafe fn")
            {
                continue;
            }
            let above = lines[..line - 1].iter().rev().take(6);
            if !above.chain([&own]).any(|line| line.contains("Safety:") || line.contains("# Safety")) {
                complaints.push(format!("{}:{line}: no `Safety:` above it", path.display()));
            }
        }
    }
    none_of(complaints);
}

/// Style: a file is one noun.
#[test]
fn files_are_short() {
    let lines = |text: &str| text.lines().count();
    let long = rust_files("src").into_iter().filter(|(_, text)| lines(text) > LONGEST_FILE);
    none_of(long.map(|(path, text)| format!("{}: {} lines", path.display(), lines(&text))).collect());
}

/// The files that the modules declared in `path` may live in; a `#[path]` counts.
fn declared(path: &Path, text: &str) -> Vec<PathBuf> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    let folder = path.parent().expect("a folder");
    let own_folder = if matches!(stem, "lib" | "main" | "mod") { folder.to_owned() } else { folder.join(stem) };
    let mut files = Vec::new();
    let mut above = "";
    for (line, code) in text.lines().zip(code(text).lines()) {
        let words: Vec<_> = code.split([' ', '(', ')']).filter(|word| !word.is_empty()).collect();
        let (leading, rest) = words.split_at(words.iter().position(|word| *word == "mod").unwrap_or(words.len()));
        let name = rest.get(1).and_then(|name| name.strip_suffix(';'));
        if let Some(name) = name
            && leading.iter().all(|word| matches!(*word, "pub" | "crate" | "super"))
        {
            match above.trim().strip_prefix("#[path = \"").and_then(|named| named.strip_suffix("\"]")) {
                Some(named) => files.push(folder.join(named)),
                None => {
                    files.push(own_folder.join(format!("{name}.rs")));
                    files.push(own_folder.join(name).join("mod.rs"));
                }
            }
        }
        above = line;
    }
    files
}

/// Style: no dead files: every file is reachable from the crate, the binary, or a test.
#[test]
fn every_file_is_a_module() {
    let mut files = rust_files("src");
    files.extend(rust_files("tests"));
    let is_root = |path: &Path| {
        let folder = path.parent().expect("a folder");
        path.ends_with("src/lib.rs")
            || path.ends_with("src/main.rs")
            || folder == Path::new("tests")
            || (folder.parent() == Some(Path::new("tests")) && path.ends_with("main.rs"))
    };
    let mut open: Vec<_> = files.keys().filter(|path| is_root(path)).cloned().collect();
    let mut reached: BTreeSet<_> = open.iter().cloned().collect();
    while let Some(path) = open.pop() {
        for module in declared(&path, &files[&path]) {
            let module = normal(&module);
            if files.contains_key(&module) && reached.insert(module.clone()) {
                open.push(module);
            }
        }
    }
    none_of(
        files
            .keys()
            .filter(|path| !reached.contains(*path))
            .map(|path| format!("{} is dead", path.display()))
            .collect(),
    );
}

/// The path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        if part.as_os_str() == ".." {
            normal.pop();
        } else {
            normal.push(part);
        }
    }
    normal
}

/// The modules of the crate that `code` names: `kernel`, and `kernel::State` where one name is taken from it.
fn named_modules(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let compact: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    for (at, _) in compact.match_indices("crate::") {
        let rest = &compact[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => split_group(group),
            None => vec![rest.split([';', ',', ')', '(', '>', '<', ' ', '}']).next().unwrap_or_default()],
        };
        for name in names {
            let name = name.trim();
            let module = name.split("::").next().unwrap_or_default();
            if module.chars().next().is_some_and(char::is_lowercase) && module != "self" {
                // `kernel::{Handle, State}` is two names.
                let inner = rest.strip_prefix(module).and_then(|rest| rest.strip_prefix("::{")).map(split_group);
                match inner {
                    Some(inner) => named.extend(inner.iter().map(|inner| format!("{module}::{}", inner.trim()))),
                    None => drop(named.insert(name.trim_end_matches("::").to_owned())),
                }
            }
        }
    }
    named
}

/// The items of a `{…}` group, without its opening brace, at its first level.
fn split_group(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

/// Style: imports run downwards: the kernel knows nothing of ours, the domain no concurrency, no door the kernel.
#[test]
fn imports_run_downwards() {
    let mut complaints = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, text) in rust_files("src") {
        let inside = path.strip_prefix("src").expect("under src");
        let first = inside.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        let module = first.trim_end_matches(".rs").to_owned();
        if module == "lib" {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(layer, _)| *layer == module) else {
            complaints.push(format!("{}: which layer is `{module}` in? Say so in tests/tidy.rs", path.display()));
            continue;
        };
        for name in named_modules(&code(&text)) {
            let permitted = allowed.iter().any(|allowed| name == *allowed || name.starts_with(&format!("{allowed}::")));
            if !permitted {
                complaints.push(format!("{}: `{module}` may not name `{name}`", path.display()));
            }
            seen.insert((module.clone(), name));
        }
    }
    none_of(complaints);
    assert!(seen.iter().any(|(module, name)| module == "ledger" && name.starts_with("kernel")), "imports are found");
}

/// The requirement numbers in the doc comments of the tests in `text`. The number of a case is not one.
fn tested(text: &str) -> BTreeSet<String> {
    let mut tested = BTreeSet::new();
    let (mut docs, mut is_test) = (String::new(), false);
    for line in text.lines().map(str::trim) {
        if let Some(doc) = line.strip_prefix("///") {
            docs.push_str(doc);
            docs.push('\n');
        } else if line.starts_with("#[") {
            is_test |= line.starts_with("#[test]") || line.contains("::test");
        } else {
            if is_test {
                tested.extend(requirement_numbers(&docs));
            }
            (docs, is_test) = (String::new(), false);
        }
    }
    tested
}

/// Words like `A1`; after `case`, numbers up to the next other word are those of cases.
fn requirement_numbers(docs: &str) -> Vec<String> {
    let mut numbers = Vec::new();
    let mut of_cases = false;
    for word in docs.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let (letter, digits) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
        let number = ["A", "B", "C", "D", "E"].contains(&letter) && digits.parse::<u8>().is_ok();
        match number {
            true if !of_cases => numbers.push(word.to_owned()),
            true => {}
            false => of_cases = word == "case" || word == "cases" || (of_cases && word == "and"),
        }
    }
    numbers
}

/// Style: every requirement that holds is named by a test.
#[test]
fn every_requirement_has_a_test() {
    let mut files = rust_files("tests");
    files.extend(rust_files("src"));
    let named: BTreeSet<_> = files.values().flat_map(|text| tested(text)).collect();
    none_of(
        REQUIREMENTS.iter().filter(|row| !named.contains(**row)).map(|row| format!("no test names {row}")).collect(),
    );
}

/// E5: there are scripts for the model checkers and for ThreadSanitizer, and CI's entry exists.
#[test]
fn the_race_checkers_are_scripted() {
    let folders = [root().join("scripts"), root().join(".ci")];
    let scripts: String = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten())
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .collect();
    for checker in RACE_CHECKERS {
        assert!(scripts.contains(checker), "no script runs {checker}");
    }
    assert!(root().join(".ci/run").exists());
}

/// A13: the contract is in the repository, with all its calls.
#[test]
fn the_contract_is_here() {
    let contract = fs::read_to_string(root().join("proto/equipoise/v1/accounts.proto")).expect("the contract");
    assert!(contract.contains("package equipoise.v1;"));
    let calls = [
        "CreateAccount",
        "GetBalance",
        "UpdateBalance",
        "TransferFunds",
        "ExecuteBatch",
        "ExecuteStream",
        "SnapshotBalances",
        "ListAccounts",
        "GetTransaction",
        "WatchTransactions",
    ];
    for call in calls {
        assert!(
            contract.contains(&format!("rpc {call}({}", if call == "ExecuteStream" { "stream " } else { "" })),
            "{call}"
        );
    }
}

/// This file's own tools do what they say.
#[test]
fn the_tools_work() {
    let source =
        "let a = \"unsafe // \\\" x\"; // unsafe\nlet b = 'a'; fn f<'a>() { unsafe {} } /* atomic */ r#\"Acquire\"#\n";
    let found: Vec<_> = words(&code(source))
        .filter(|(_, word)| ["unsafe", "atomic", "Acquire"].contains(word))
        .map(|(line, word)| (line, word.to_owned()))
        .collect();
    assert_eq!(found, [(2, "unsafe".to_owned())]);
    let docs = "/// A5, cases A11, A10 and A16: B1 and A15.\n#[test]\nfn x() {}\n/// A7: no test\nfn y() {}\n";
    assert_eq!(tested(docs), ["A5"].map(String::from).into());
    let docs = "/// A5, A15, case A11: text B1.\n#[tokio::test(flavor = \"x\")]\nasync fn x() {}\n";
    assert_eq!(tested(docs), ["A15", "A5", "B1"].map(String::from).into());
    let imports = "use crate::kernel::{Handle, State}; use crate::{Ledger, grpc::door}; crate::core::submit(x);";
    let named: Vec<_> = named_modules(imports).into_iter().collect();
    assert_eq!(named, ["core::submit", "grpc::door", "kernel::Handle", "kernel::State"]);
    let modules = declared(
        Path::new("src/grpc/mod.rs"),
        "pub(crate) mod walk;\n#[path = \"../x/y.rs\"]\nmod z;\nmod inline {\n}\n// mod no;\n",
    );
    let modules: Vec<_> = modules.iter().map(|path| normal(path)).collect();
    assert_eq!(modules, ["src/grpc/walk.rs", "src/grpc/walk/mod.rs", "src/x/y.rs"].map(PathBuf::from));
}
