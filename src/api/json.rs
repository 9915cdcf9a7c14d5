//! The little of JSON (RFC 8259) that a client sends and gets.

/// Adds `text` as a string.
pub fn quote(text: &[u8], to: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |byte: u8| DIGITS[usize::from(byte & 0xf)];
    to.push(b'"');
    for &byte in text {
        let escaped = [b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte)];
        to.extend_from_slice(match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            0..0x20 => &escaped,
            _ => std::slice::from_ref(&byte),
        });
    }
    to.push(b'"');
}

/// The value of `key` in an object of which all values are strings.
pub fn member(text: &[u8], key: &str) -> Option<String> {
    let mut rest = Rest(text);
    let mut found = None;
    let mut before = b'{';
    loop {
        if rest.token() != Some(before) {
            return None;
        }
        let name = rest.string()?;
        if rest.token() != Some(b':') {
            return None;
        }
        let value = rest.string()?;
        if name == key {
            found = Some(value);
        }
        before = b',';
        if rest.0.trim_ascii() == b"}" {
            return found;
        }
    }
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next byte that is no space.
    fn token(&mut self) -> Option<u8> {
        self.0 = self.0.trim_ascii_start();
        self.byte()
    }

    fn string(&mut self) -> Option<String> {
        if self.token() != Some(b'"') {
            return None;
        }
        let mut text = Vec::new();
        loop {
            match self.byte()? {
                b'"' => return String::from_utf8(text).ok(),
                b'\\' => match self.byte()? {
                    escaped @ (b'"' | b'\\' | b'/') => text.push(escaped),
                    // Beyond ASCII, in four digits.
                    b'u' => {
                        let digits = self.0.get(..4)?.iter().map(|digit| char::from(*digit));
                        let mut digits = digits.map(|digit| digit.to_digit(16));
                        let each = digits.try_fold(0, |sum, digit| Some(sum << 4 | digit?))?;
                        let each = char::from_u32(each)?;
                        self.0 = &self.0[4..];
                        text.extend_from_slice(each.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    _ => return None,
                },
                0..0x20 => return None,
                byte => text.push(byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_an_object_of_strings() {
        let url = |text: &str| member(text.as_bytes(), "url");
        for (text, value) in [
            (r#"{"url":"file:///a"}"#, "file:///a"),
            (" {\n\t\"a\" : \"b\" , \"url\" : \"c\" } \r\n", "c"),
            (r#"{"url":"a\"\\\/\u00e9é"}"#, "a\"\\/éé"),
        ] {
            assert_eq!(url(text).as_deref(), Some(value), "{text}");
        }
        for text in [
            "",
            "{",
            "{}",
            "[]",
            "null",
            r#""url""#,
            r#"{"url"}"#,
            r#"{"url":}"#,
            r#"{"url":"a"#,
            r#"{"url":"a""#,
            r#"{"url":"a",}"#,
            r#"{"url":1}"#,
            r#"{"a":"b"}"#,
            r#"{"url":"a"} x"#,
            r#"{"url":"\x"}"#,
            r#"{"url":"\u12"}"#,
            r#"{"url":"\ud800"}"#,
            r#"{"url":"\u+123"}"#,
            "{\"url\":\"\n\"}",
            "{{\"url\":\"a\"}",
            r#"{,"url":"a"}"#,
        ] {
            assert_eq!(url(text), None, "{text}");
        }
        assert_eq!(member(b"{\"url\":\"\xff\"}", "url"), None);
    }

    #[test]
    fn any_text_is_a_string() {
        for text in ["", "plain", "\"\\/\n\0\x1f\u{e9}\u{1f600}"] {
            let mut quoted = Vec::new();
            quote(text.as_bytes(), &mut quoted);
            assert_eq!(serde_json::from_slice::<String>(&quoted).unwrap(), text);
        }
    }
}
