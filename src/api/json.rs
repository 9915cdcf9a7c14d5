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

/// Adds `number`. (By formatting it is more code, to have all that formatting can.)
#[inline(never)]
pub fn number(number: u64, to: &mut Vec<u8>) {
    if number > 9 {
        self::number(number / 10, to);
    }
    to.push(b'0' + (number % 10) as u8);
}

/// Writes the value of `key` in an object of which all values are strings to `to`; false where that is
/// not what `text` is.
pub fn member(text: &[u8], key: &[u8], to: &mut Vec<u8>) -> bool {
    let mut rest = Rest(text);
    let mut other = Vec::new();
    let mut found = false;
    if rest.token() != Some(b'{') {
        return false;
    }
    while rest.string(&mut other).is_some() && rest.token() == Some(b':') {
        let this = other == key;
        found |= this;
        if rest.string(if this { &mut *to } else { &mut other }).is_none() {
            break;
        }
        match rest.token() {
            Some(b',') => {}
            Some(b'}') => return found && rest.token().is_none(),
            _ => break,
        }
    }
    false
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
    #[inline(never)]
    fn token(&mut self) -> Option<u8> {
        self.0 = self.0.trim_ascii_start();
        self.byte()
    }

    /// The next token, a string, in the place of what is in `text`.
    #[inline(never)]
    fn string(&mut self, text: &mut Vec<u8>) -> Option<()> {
        text.clear();
        if self.token() != Some(b'"') {
            return None;
        }
        loop {
            let mut byte = self.byte()?;
            match byte {
                b'"' => return std::str::from_utf8(text).ok().map(|_| ()),
                b'\\' => match self.byte()? {
                    escaped @ (b'"' | b'\\' | b'/') => byte = escaped,
                    // Beyond ASCII, in four digits.
                    b'u' => {
                        let mut each = 0u16;
                        for _ in 0..4 {
                            each = each << 4 | char::from(self.byte()?).to_digit(16)? as u16;
                        }
                        let each = char::from_u32(each.into())?;
                        text.extend_from_slice(each.encode_utf8(&mut [0; 4]).as_bytes());
                        continue;
                    }
                    _ => return None,
                },
                0..0x20 => return None,
                _ => {}
            }
            text.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_an_object_of_strings() {
        let url = |text: &str| {
            let mut to = Vec::new();
            member(text.as_bytes(), b"url", &mut to).then(|| String::from_utf8(to).unwrap())
        };
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
        assert!(!member(b"{\"url\":\"\xff\"}", b"url", &mut Vec::new()));
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
