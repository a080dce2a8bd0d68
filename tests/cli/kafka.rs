//! The commands that speak with Kafka, where no broker is needed.

use crate::program::{equipoise, run};

/// D8: what cannot be used is said before anything is sent.
#[test]
fn wrong_usage_is_told() {
    let cases: [(&[&str], &str); 10] = [
        (&["produce"], "--brokers"),
        (&["dead-letters", "list"], "KAFKA_BROKERS"),
        (&["produce", "--brokers", "127.0.0.1:1", "-X", "acks=1"], "idempotent"),
        (&["produce", "--poison", "1.5"], "a share from 0 to 1"),
        (&["produce", "--skew", "-1"], "--skew"),
        (&["produce", "--products", "0"], "--products"),
        (&["produce", "--brokers", "127.0.0.1:1", "--poison", "0.6", "--duplicates", "0.6"], "at most 1 together"),
        (&["produce", "--brokers", "127.0.0.1:1", "-X", "no.such.property=1"], "no.such.property"),
        (&["produce", "--brokers", "127.0.0.1:1", "-X", "linger.ms"], "NAME=VALUE"),
        (&["dead-letters", "show", "42", "--brokers", "127.0.0.1:1"], "PARTITION:OFFSET"),
    ];
    for (arguments, text) in cases {
        let ended = run(&mut equipoise(arguments));
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(text), "{arguments:?}: {ended:?}");
    }
}

/// D6: brokers that are away are told as such, with why.
#[test]
fn brokers_that_are_away_are_named() {
    for arguments in
        [&["produce", "--events", "1"][..], &["dead-letters", "list"], &["dead-letters", "redrive", "--all"]]
    {
        let ended = run(equipoise(arguments).arg("--json").env("KAFKA_BROKERS", "127.0.0.1:1"));
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(3), ""), "{arguments:?}: {ended:?}");
        let error = ended.error();
        assert_eq!(error["code"], "UNAVAILABLE", "{arguments:?}: {error}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains("cannot reach the brokers")), "{error}");
    }
}
