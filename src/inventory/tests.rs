//! Odd messages: the table of case A16, the ids of case A17, and the envelopes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Event, Format, Header, Malformed, Message, decode};
use crate::{AccountId, TransactionId};

/// What a record without headers says.
fn plain(value: &[u8]) -> Result<Option<Event>, Malformed> {
    decode(&Message { value: Some(value), ..Message::default() })
}

fn with_headers(value: &[u8], headers: &[Header<'_>]) -> Result<Option<Event>, Malformed> {
    let headers: Vec<Header<'_>> = headers.to_vec();
    decode(&Message { key: None, value: Some(value), headers: &headers })
}

fn event(id: &str, product: &str, quantity_change: i64) -> Event {
    let id = TransactionId::new(id).expect("a valid id");
    Event { id, product: AccountId::new(product).expect("a valid id"), quantity_change }
}

/// An event whose quantity is written so.
fn quantity(raw: &str) -> String {
    format!(r#"{{"event_id":"e","product_id":"p","quantity_change":{raw}}}"#)
}

/// Whether `result` is a complaint that says all of `words`, short and on one line.
fn complains(result: Result<Option<Event>, Malformed>, words: &[&str], case: &str) {
    let reason = result.expect_err(case).to_string();
    for word in words {
        assert!(reason.contains(word), "{case}: {word:?} is not in {reason:?}");
    }
    assert!(reason.len() < 400 && !reason.contains(char::is_control), "{case}: {reason}");
}

/// D1: a record without a value is a tombstone: skipped, whatever its headers are.
#[test]
fn a_record_without_a_value_says_nothing() {
    for headers in [&[][..], &[("content-type", Some(&b"application/protobuf"[..]))], &[("ce_id", None)]] {
        assert_eq!(decode(&Message { key: Some(b"p"), value: None, headers }), Ok(None));
    }
}

/// D1: order, white space and fields that nobody knows make no difference.
#[test]
fn events_are_read() {
    for value in [
        r#"{"event_id":"e","product_id":"p","quantity_change":1}"#,
        "{\"event_id\":\"e\",\"product_id\":\"p\",\"quantity_change\":1}\n",
        " \t\r\n{ \"quantity_change\" : 1 , \"product_id\" : \"p\" , \"event_id\" : \"e\" } ",
        r#"{"x":null,"event_id":"e","Event_ID":7,"product_id":"p","y":{"event_id":[1]},"quantity_change":1,"x":"\ud800"}"#,
        r#"{"event\u005fid":"\u0065","product_id":"p","quantity_change":1}"#,
    ] {
        assert_eq!(plain(value.as_bytes()), Ok(Some(event("e", "p", 1))), "{value}");
    }
    let value = r#"{"event_id":"Ⅷ-\"\\\/é😀","product_id":" a/b ","quantity_change":0}"#;
    assert_eq!(plain(value.as_bytes()), Ok(Some(event("Ⅷ-\"\\/é😀", " a/b ", 0))));
}

/// D1, case A16: what is not one JSON object is malformed.
#[test]
fn other_values_are_malformed() {
    let good = quantity("1");
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let with_bom = [&b"\xef\xbb\xbf"[..], good.as_bytes()].concat();
    let latin1 = b"{\"event_id\":\"\xe9\",\"product_id\":\"p\",\"quantity_change\":1}";
    let raw_ff = b"{\"event_id\":\"e\",\"product_id\":\"p\",\"quantity_change\":1,\"note\":\"\xff\"}";
    let cases: [(&str, &[u8], &[&str]); 22] = [
        ("empty", b"", &["the value is empty"]),
        ("spaces", b" \t\r\n ", &["the value is empty"]),
        ("null", b"null", &["the value must be a JSON object", "null"]),
        ("byte order mark", &with_bom, &["byte order mark"]),
        ("UTF-16", &utf16, &["the value"]),
        ("Latin-1", latin1, &["not UTF-8", "byte 13"]),
        ("raw byte FF in a field that nobody knows", raw_ff, &["not UTF-8"]),
        ("two objects", br#"{"event_id":"e","product_id":"p","quantity_change":1}{}"#, &["trailing characters"]),
        ("text after it", br#"{"event_id":"e","product_id":"p","quantity_change":1};"#, &["trailing characters"]),
        ("trailing comma", br#"{"event_id":"e","product_id":"p","quantity_change":1,}"#, &["trailing comma"]),
        ("single quotes", b"{'event_id':'e','product_id':'p','quantity_change':1}", &["not JSON"]),
        ("cut off", br#"{"event_id":"e","product_id":"p","quantity_change":1"#, &["EOF"]),
        ("cut off in a value", br#"{"event_id":"e","product_id":"p"#, &["product_id", "EOF"]),
        ("array", br#"["e","p",1]"#, &["must be a JSON object", r#"["e","p",1]"#]),
        ("array of an event", br#"[{"event_id":"e","product_id":"p","quantity_change":1}]"#, &["JSON object"]),
        ("text", br#""{\"event_id\":\"e\"}""#, &["JSON object"]),
        ("number", b"5", &["JSON object"]),
        ("nothing but NUL", b"\0", &["JSON object"]),
        ("magic byte of a schema registry", b"\0\0\0\0\x07{}", &["JSON object", r"\0\0\0\0\u{7}{}"]),
        ("raw newline in a text", b"{\"event_id\":\"a\nb\",\"product_id\":\"p\",\"quantity_change\":1}", &["event_id"]),
        ("a key that is none", br#"{7:"e"}"#, &["key must be a string"]),
        ("unfinished surrogate in a key", br#"{"\ud800":1}"#, &["not JSON"]),
    ];
    for (case, value, words) in cases {
        complains(plain(value), words, case);
    }
}

/// D1, case A16: a field that counts is there once, whatever the two say and however they are spelled.
#[test]
fn a_field_that_comes_twice_is_malformed() {
    for (field, value) in [
        ("quantity_change", r#"{"event_id":"e","product_id":"p","quantity_change":1,"quantity_change":-1}"#),
        ("quantity_change", r#"{"event_id":"e","product_id":"p","quantity_change":1,"quantity_change":1}"#),
        ("event_id", r#"{"event_id":"e","product_id":"p","event_id":"f","quantity_change":1}"#),
        ("event_id", r#"{"event_id":"e","product_id":"p","event\u005fid":"e","quantity_change":1}"#),
        ("product_id", r#"{"product_id":null,"event_id":"e","product_id":"p","quantity_change":1}"#),
    ] {
        complains(plain(value.as_bytes()), &[field, "twice"], value);
    }
}

/// D1, case A16: a quantity is exactly the integer that was written, or malformed; it is never rounded or cut.
#[test]
fn a_quantity_is_exact_or_malformed() {
    for (raw, change) in [
        ("0", 0),
        ("-0", 0),
        ("1.0", 1),
        ("1e3", 1000),
        ("-5e0", -5),
        ("9007199254740993.0", 9_007_199_254_740_993),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ] {
        assert_eq!(plain(quantity(raw).as_bytes()), Ok(Some(event("e", "p", change))), "{raw}");
    }
    for raw in [
        r#""5""#,
        "null",
        "true",
        "[]",
        "{}",
        "1.5",
        "1e400",
        "-1e400",
        "1e-1",
        "05",
        "+5",
        "-",
        "1.",
        ".5",
        "0x5",
        "NaN",
        "Infinity",
        "12345678901234567890",
        "9223372036854775808",
        "-9223372036854775809",
        "9223372036854775807.5",
    ] {
        complains(plain(quantity(raw).as_bytes()), &["quantity_change"], raw);
    }
    let missing = br#"{"event_id":"e","product_id":"p"}"#;
    complains(plain(missing), &["quantity_change is missing"], "missing");
    complains(plain(quantity("12345678901234567890").as_bytes()), &["got 12345678901234567890"], "shown");
}

/// D1, D6, cases A16 and A17: an id that the stores could not keep is malformed here, by the rules that all doors
/// share.
#[test]
fn an_id_against_the_rules_is_malformed() {
    let random: String =
        (0..3000_u32).map(|n| char::from_digit(n.wrapping_mul(2_654_435_761) >> 28, 16).expect("hex")).collect();
    let long = |length: usize| format!("\"{}\"", "x".repeat(length));
    let cases = [
        ("empty", r#""""#.to_owned(), "1 to 128 bytes long, got 0: \"\""),
        ("a number", "7".to_owned(), "must be text, got 7"),
        ("null", "null".to_owned(), "must be text, got null"),
        ("an object", r#"{"id":"e"}"#.to_owned(), "must be text"),
        ("half a surrogate pair", r#""\ud800""#.to_owned(), r#"must be text, got "\ud800""#),
        ("a NUL", r#""a\u0000b""#.to_owned(), r#"control characters, found one at byte 1: "a\u0000b""#),
        ("only a NUL", r#""\u0000""#.to_owned(), "control characters"),
        ("a newline", r#""a\nb""#.to_owned(), "control characters"),
        ("129 bytes", long(129), "1 to 128 bytes long, got 129"),
        ("3,000 random digits", format!("\"{random}\""), "1 to 128 bytes long, got 3000"),
        ("1 MB", long(1 << 20), "1 to 128 bytes long, got 1048576"),
    ];
    for (case, raw, words) in cases {
        let value = format!(r#"{{"event_id":{raw},"product_id":"p","quantity_change":1}}"#);
        complains(plain(value.as_bytes()), &["event_id", words], case);
        let value = format!(r#"{{"event_id":"e","product_id":{raw},"quantity_change":1}}"#);
        complains(plain(value.as_bytes()), &["product_id", words], case);
    }
    for field in ["event_id", "product_id"] {
        let value = quantity("1").replace(field, "other");
        complains(plain(value.as_bytes()), &[field, "is missing"], "missing");
        let value = quantity("1").replace(field, &field.to_uppercase());
        complains(plain(value.as_bytes()), &[field, "is missing"], "another case");
    }
    let value = format!(r#"{{"event_id":{},"product_id":{},"quantity_change":1}}"#, long(128), long(128));
    assert!(plain(value.as_bytes()).is_ok());
}

/// D1, case A16: depth and size do no harm, on a small stack.
#[test]
fn deep_and_large_values_do_no_harm() {
    let deep = |open: &str, close: &str, times: usize| [open.repeat(times), close.repeat(times)].concat();
    let unknown = |raw: &str| format!(r#"{{"x":{raw},"event_id":"e","product_id":"p","quantity_change":1}}"#);
    let run = move || {
        for nested in [deep("[", "]", 100_000), format!("{}0{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000))] {
            assert_eq!(plain(unknown(&nested).as_bytes()), Ok(Some(event("e", "p", 1))));
            complains(plain(quantity(&nested).as_bytes()), &["quantity_change"], "a nested quantity");
            assert!(plain(nested.as_bytes()).is_err());
        }
        let large = format!("\"{}\"", "y".repeat(900_000));
        assert_eq!(plain(unknown(&large).as_bytes()), Ok(Some(event("e", "p", 1))));
        complains(plain("[".repeat(100_000).as_bytes()), &["JSON object"], "never closed");
    };
    let thread = std::thread::Builder::new().stack_size(128 * 1024).spawn(run).expect("a thread");
    thread.join().expect("no overflow");
}

/// D1, case A16: headers that say nothing about the value never make a good event a bad one.
#[test]
fn the_value_decides_whatever_the_headers_are() {
    let value = quantity("1");
    let many: Vec<String> = (0..1000).map(|n| format!("header-{n}")).collect();
    let many: Vec<Header<'_>> = many.iter().map(|name| (name.as_str(), Some(&b"x"[..]))).collect();
    let cases: [(&str, &[Header<'_>]); 9] = [
        ("none", &[]),
        ("a thousand", &many),
        ("two ids", &[("ce_id", Some(b"a")), ("ce_id", Some(b"b"))]),
        ("another id", &[("ce_id", Some(b"a"))]),
        ("an id without a value", &[("ce_id", None)]),
        ("an id that is not UTF-8", &[("ce_id", Some(b"\xff"))]),
        ("no content type", &[("content-type", None)]),
        ("a content type that is not UTF-8", &[("content-type", Some(b"\xff"))]),
        ("a text's content type, twice", &[("Content-Type", Some(b"text/plain")), ("content-type", Some(b"x"))]),
    ];
    for (case, headers) in cases {
        assert_eq!(with_headers(value.as_bytes(), headers), Ok(Some(event("e", "p", 1))), "{case}");
    }
}

/// D1: a CloudEvent in binary mode lends the event its id, if it has none of its own.
#[test]
fn a_binary_cloudevent_has_its_id_in_a_header() {
    let value = br#"{"product_id":"p","quantity_change":1}"#;
    let attributes: [Header<'_>; 5] = [
        ("ce_specversion", Some(b"1.0")),
        ("ce_type", Some(b"stock.changed")),
        ("ce_source", Some(b"/shop")),
        ("ce_id", Some("é-1".as_bytes())),
        ("content-type", Some(b"Application/JSON ; charset=utf-8")),
    ];
    assert_eq!(with_headers(value, &attributes), Ok(Some(event("é-1", "p", 1))));
    let cases: [(&str, &[Header<'_>], &[&str]); 8] = [
        ("no id at all", &[], &["event_id is missing"]),
        ("another case", &[("CE_ID", Some(b"a"))], &["event_id is missing"]),
        ("two ids", &[("ce_id", Some(b"a")), ("ce_id", Some(b"a"))], &["ce_id", "twice"]),
        ("no value", &[("ce_id", None)], &["ce_id", "no value"]),
        ("not UTF-8", &[("ce_id", Some(b"a\xff"))], &["ce_id", "not UTF-8"]),
        ("empty", &[("ce_id", Some(b""))], &["ce_id", "got 0"]),
        ("a control character", &[("ce_id", Some(b"a\x00"))], &["ce_id", r#""a\0""#]),
        ("too long", &[("ce_id", Some(&[b'x'; 129]))], &["ce_id", "got 129"]),
    ];
    for (case, headers, words) in cases {
        complains(with_headers(value, headers), words, case);
    }
    // An id that is there and wrong is not replaced.
    for wrong in ["null", r#""""#, "7"] {
        let value = format!(r#"{{"event_id":{wrong},"product_id":"p","quantity_change":1}}"#);
        complains(with_headers(value.as_bytes(), &attributes), &["event_id"], wrong);
    }
}

const STRUCTURED: &[Header<'_>] = &[("content-type", Some(b"application/cloudevents+json; charset=UTF-8"))];

/// D1: a CloudEvent in structured mode: its data is the event, its id the event's if that has none.
#[test]
fn a_structured_cloudevent_is_opened() {
    let data = quantity("-3");
    let (base64, protobuf) = (STANDARD.encode(&data), Format::Protobuf.encode(&event("e", "p", -3)).value);
    let protobuf = STANDARD.encode(protobuf);
    for fields in [
        format!(r#""id":"other","data":{data}"#),
        format!(r#""data":{data},"datacontenttype":"application/vnd.shop+json","data_base64":null,"id":7"#),
        format!(r#""id":null,"datacontenttype":null,"data_base64":"{base64}""#),
        format!(r#""datacontenttype":"application/protobuf","data_base64":"{protobuf}""#),
        r#""id":"e","data":{"product_id":"p","quantity_change":-3},"extension":{"deep":[[]]}"#.to_owned(),
    ] {
        let value = format!(r#"{{"specversion":"1.0","type":"t","source":"/s",{fields}}}"#);
        assert_eq!(with_headers(value.as_bytes(), STRUCTURED), Ok(Some(event("e", "p", -3))), "{value}");
    }
    // Of what the headers say, the content type counts and no more.
    let value = r#"{"specversion":"1.0","data":{"product_id":"p","quantity_change":1}}"#;
    let headers = [STRUCTURED[0], ("ce_id", Some(&b"e"[..]))];
    complains(with_headers(value.as_bytes(), &headers), &["event_id is missing"], "ce_id beside an envelope");
}

/// D1: an envelope that can be understood in two ways, or not at all, is malformed.
#[test]
fn a_wrong_envelope_is_malformed() {
    let data = quantity("1");
    let cases = [
        ("no version", format!(r#"{{"id":"e","data":{data}}}"#), "specversion is missing"),
        ("old version", format!(r#"{{"specversion":"0.3","id":"e","data":{data}}}"#), r#"specversion must be "1.0""#),
        ("a number", format!(r#"{{"specversion":1.0,"id":"e","data":{data}}}"#), "specversion must be text"),
        ("no data", r#"{"specversion":"1.0","id":"e"}"#.to_owned(), "data is missing"),
        ("null", r#"{"specversion":"1.0","id":"e","data":null}"#.to_owned(), "data is missing"),
        (
            "both",
            format!(r#"{{"specversion":"1.0","data":{data},"data_base64":"e30="}}"#),
            "data_base64 is there beside",
        ),
        ("twice", format!(r#"{{"specversion":"1.0","data":{data},"data":{data}}}"#), "data appears twice"),
        ("text", r#"{"specversion":"1.0","data":"{}"}"#.to_owned(), "data must be a JSON object"),
        ("array", r#"{"specversion":"1.0","data":["e","p",1]}"#.to_owned(), "data must be a JSON object"),
        ("base64", r#"{"specversion":"1.0","data_base64":"e30"}"#.to_owned(), "data_base64 must be base64"),
        ("inside", r#"{"specversion":"1.0","data_base64":"W10="}"#.to_owned(), "data_base64 must be a JSON object"),
        ("nothing", r#"{"specversion":"1.0","data_base64":""}"#.to_owned(), "empty"),
        (
            "envelopes in envelopes",
            format!(r#"{{"specversion":"1.0","datacontenttype":"application/cloudevents+json","data":{data}}}"#),
            "datacontenttype must be JSON or Protobuf",
        ),
        (
            "Protobuf as text",
            r#"{"specversion":"1.0","datacontenttype":"application/protobuf","data":"CgFl"}"#.to_owned(),
            "data must be in data_base64",
        ),
        (
            "a wrong id",
            r#"{"specversion":"1.0","id":"","data":{"product_id":"p","quantity_change":1}}"#.to_owned(),
            "id must be 1 to 128",
        ),
        ("no envelope", "[]".to_owned(), "the value must be a JSON object"),
        ("empty", String::new(), "empty"),
    ];
    for (case, value, words) in cases {
        complains(with_headers(value.as_bytes(), STRUCTURED), &[words], case);
    }
    for other in
        ["application/cloudevents-batch+json", "application/cloudevents+avro", "application/cloudevents+protobuf"]
    {
        let headers = [("content-type", Some(other.as_bytes()))];
        complains(with_headers(data.as_bytes(), &headers), &["header content-type", other], other);
    }
}

/// D1: Protobuf, by its content type only.
#[test]
fn protobuf_is_read_by_its_content_type() {
    let sent = event("e", "p", i64::MIN);
    let value = Format::Protobuf.encode(&sent).value;
    for content_type in ["application/protobuf", "application/x-protobuf; messageType=x", "APPLICATION/PROTOBUF"] {
        let headers = [("content-type", Some(content_type.as_bytes()))];
        assert_eq!(with_headers(&value, &headers), Ok(Some(sent.clone())), "{content_type}");
    }
    complains(plain(&value), &["the value"], "no content type");
    let headers: &[Header<'_>] =
        &[("content-type", Some(b"application/protobuf")), ("ce_id", Some(b"from the header"))];
    // product_id = "p" and nothing more, and a field that nobody knows.
    let bare = b"\x12\x01p\x78\x01";
    assert_eq!(with_headers(bare, headers), Ok(Some(event("from the header", "p", 0))));
    complains(with_headers(bare, &headers[..1]), &["event_id is missing"], "no id");
    let twice = [&value[..], &value].concat();
    let cases: [(&str, &[u8], &[&str]); 8] = [
        ("empty", b"", &["product_id is missing"]),
        ("two events in one value", &twice, &["event_id appears twice"]),
        ("a number twice", b"\x12\x01p\x18\x01\x18\x02", &["quantity_change appears twice"]),
        ("another type", b"\x12\x01p\x1a\x01x", &["not an equipoise.v1.InventoryEvent", "quantity_change"]),
        ("cut off", &value[..value.len() - 1], &["not an equipoise.v1.InventoryEvent"]),
        ("not UTF-8", b"\x12\x01\xff", &["not an equipoise.v1.InventoryEvent", "product_id"]),
        ("a NUL", b"\x0a\x03a\x00b\x12\x01p", &["event_id", "control characters", r#""a\0b""#]),
        ("JSON", br#"{"event_id":"e","product_id":"p","quantity_change":1}"#, &["not an equipoise.v1.InventoryEvent"]),
    ];
    for (case, value, words) in cases {
        complains(with_headers(value, headers), words, case);
    }
    let two: &[Header<'_>] =
        &[("content-type", Some(b"application/protobuf")), ("content-type", Some(b"application/json"))];
    complains(with_headers(&value, two), &["header content-type", "twice"], "two content types");
}

/// D1: what is written in any of the ways is read as it was.
#[test]
fn every_format_is_read_as_it_was_written() {
    for sent in [event("e", "p", 7), event(&"é".repeat(64), "\"\\/\u{200b}", i64::MIN), event(" ", "😀", 0)] {
        for format in [Format::Json, Format::CloudEvents, Format::CloudEventsStructured, Format::Protobuf] {
            let encoded = format.encode(&sent);
            let headers: Vec<Header<'_>> =
                encoded.headers.iter().map(|(name, value)| (*name, Some(&value[..]))).collect();
            let message = Message { key: None, value: Some(&encoded.value), headers: &headers };
            assert_eq!(decode(&message), Ok(Some(sent.clone())), "{format:?}");
        }
    }
}
