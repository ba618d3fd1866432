use proptest::prelude::*;

use super::*;

fn line() -> Line {
    let mut line = Line::new(Level::Info, "worker::request", "a line\nof two");
    line.fields.push(("path".to_owned(), Value::Text("/v1\x1f\\x".to_owned())));
    line.fields.push(("error".to_owned(), Value::Shown("none = \"good\"".to_owned())));
    line.with("status", 200)
}

fn read(written: &[u8]) -> Line {
    decode(&written[..written.len() - 1]).unwrap().to_owned()
}

#[test]
fn the_form_is_the_documented_one() {
    let golden = "\x1eI\x1fworker::request\x1fa line\\x0aof two\x1fpath\"/v1\\x1f\\x5cx\
                  \x1ferror=none = \"good\"\x1fstatus#200\n";
    let written = encode(&line());
    assert_eq!(String::from_utf8(written.clone()).unwrap(), golden);
    assert_eq!(read(&written), line());
}

#[test]
fn what_is_not_of_the_form_is_not_taken() {
    for wrong in [
        "",
        "panicked at the disco",
        "\x1eI",
        "\x1eI\x1ft",
        "\x1eX\x1ft\x1fm",
        "\x1eINFO\x1ft\x1fm",
        "\x1eI\x1f\x1fm",
        "\x1eI\x1fa b\x1fm",
        "\x1eI\x1ft\x1fm\x1f",
        "\x1eI\x1ft\x1fm\x1fname",
        "\x1eI\x1ft\x1fm\x1fName=1",
        "\x1eI\x1ft\x1fm\x1f_name=1",
        "\x1eI\x1ft\x1fm\x1f=1",
        "\x1eI\x1ft\x1fm\x1fa=1\x1fa=2",
        "\x1eI\x1ft\x1fm\x1fn#1e5",
        "\x1eI\x1ft\x1fm\x1fn#01",
        "\x1eI\x1ft\x1fm\x1fn#null",
        "\x1eI\x1ft\x1fm\x1fn#1,\"x\":2",
    ] {
        assert_eq!(decode(wrong.as_bytes()), None, "{wrong:?}");
    }
    let many: String = (0..=FIELDS_MAX).map(|number| format!("\x1ff{number}=")).collect();
    assert_eq!(decode(format!("\x1eI\x1ft\x1fm{many}").as_bytes()), None);
}

#[test]
fn the_longest_text_is_cut_and_the_others_are_whole() {
    let mut line = line();
    line.fields.push(("long".to_owned(), Value::Text("ä\n".repeat(5_000))));
    let line = line.with("last", 7);
    let written = encode(&line);
    assert!(written.len() <= LINE_BYTES_MAX && written.len() > LINE_BYTES_MAX - 8);
    let read = read(&written);
    assert_eq!(read.message, line.message);
    assert_eq!(read.field("path"), line.field("path"));
    assert_eq!(read.field("last"), line.field("last"));
    let long = read.field("long").unwrap().text();
    assert!(long.ends_with('…') && long.trim_end_matches('…').chars().all(|c| "ä\n".contains(c)));
}

#[test]
fn a_line_that_is_appended_is_the_line_that_it_is_and_one_that_is_too_long_is_cut() {
    for long in [0, 2 * LINE_BYTES_MAX] {
        let mut written = "before".to_owned();
        let text = format!("a\\b\n{}", "x".repeat(long));
        append(&mut written, Level::Info, "a::b", "it \"is\"\r", |fields| {
            fields.text(name!(text "text"), &text);
            fields.shown(name!(shown "at"), "127.0.0.1");
            fields.number(name!(number "least"), 0);
            fields.number(name!(number "most"), u64::MAX);
        });
        let mut line = Line::new(Level::Info, "a::b", "it \"is\"\r");
        line.fields.push(("text".to_owned(), Value::Text(text)));
        line.fields.push(("at".to_owned(), Value::Shown("127.0.0.1".to_owned())));
        let expected = encode(&line.with("least", 0).with("most", u64::MAX));
        assert_eq!(written, format!("before{}", String::from_utf8(expected).unwrap()));
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_and_fits(
        message in any::<String>(),
        texts in prop::collection::vec(any::<String>(), 0..20),
        number: u64,
    ) {
        let mut line = Line::new(Level::Warn, "a::b", message);
        for (place, text) in texts.into_iter().enumerate() {
            line.fields.push((format!("f{place}"), Value::Text(text)));
        }
        let line = line.with("n", number);
        let written = encode(&line);
        prop_assert!(written.len() <= LINE_BYTES_MAX);
        prop_assert_eq!(written.iter().filter(|byte| **byte == b'\n').count(), 1);
        prop_assert_eq!(read(&written), line);
    }

    #[test]
    fn a_line_of_any_size_fits_and_stays_of_the_form(sizes in prop::collection::vec(0..6_000usize, 0..40)) {
        let mut line = Line::new(Level::Warn, "a::b", "\\".repeat(sizes.len() * 100));
        for (place, size) in sizes.into_iter().enumerate() {
            line.fields.push((format!("f{place}"), Value::Shown("é\\\x1f".repeat(size))));
        }
        let written = encode(&line);
        prop_assert!(written.len() <= LINE_BYTES_MAX);
        prop_assert!(decode(&written[..written.len() - 1]).is_some());
    }

    #[test]
    fn no_bytes_are_too_much(mut bytes: Vec<u8>) {
        let _ = decode(&bytes);
        bytes.splice(0..0, *b"\x1eI\x1ft\x1fm\x1fa=");
        if let Some(line) = decode(&bytes) {
            prop_assert!(line.fields.iter().all(|(name, _)| is_name(name)));
        }
    }
}
