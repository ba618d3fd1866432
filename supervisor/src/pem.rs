//! PEM text: what is wrong with it, in words that never quote it, and the forms in which it is handed over.

use rustls::pki_types::pem::Error;

/// What is wrong. The parser's own words would quote the line it stumbled over, which may be a private key.
pub fn fault(error: &Error) -> &'static str {
    match error {
        Error::MissingSectionEnd { .. } => {
            "a BEGIN line has no END line; are the line breaks still there?"
        }
        Error::IllegalSectionStart { .. } => {
            "a BEGIN line does not end where it should; are the line breaks still there?"
        }
        Error::Base64Decode(_) => "what stands between BEGIN and END is not base64",
        Error::NoItemsFound => "there is nothing of that kind in it",
        Error::SectionTooLarge => "it is too large",
        _ => "it cannot be read",
    }
}

/// The text with line breaks where a variable had `\n` in two characters, as environment files and secret stores make it.
/// `None` where there is nothing to do.
pub fn with_line_breaks(text: &str) -> Option<String> {
    (!text.contains('\n') && text.contains("\\n")).then(|| text.replace("\\n", "\n"))
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn no_fault_quotes_the_text() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let body = key.lines().nth(1).unwrap();
        let as_numbers = format!("{:?}", body.get(..8).unwrap().as_bytes());
        let as_numbers = as_numbers.trim_matches(['[', ']']);
        for broken in [
            key.replace('\n', "\\n"),
            key.replace('\n', " "),
            key.replace('\n', ""),
            key.replace("-----END", "----END"),
            key.replace(body, "!!!"),
            "nothing".to_owned(),
        ] {
            let error = PrivateKeyDer::from_pem_slice(broken.as_bytes()).unwrap_err();
            let told = fault(&error);
            assert!(!told.contains(body) && !told.contains(as_numbers), "{told}");
        }
    }

    #[test]
    fn line_breaks_written_as_two_characters_become_line_breaks() {
        assert_eq!(with_line_breaks("-----BEGIN\\nx\\n").unwrap(), "-----BEGIN\nx\n");
        assert_eq!(with_line_breaks("a\nb\\nc"), None);
    }
}
