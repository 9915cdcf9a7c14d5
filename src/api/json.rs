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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_a_string() {
        for text in ["", "plain", "\"\\/\n\0\x1f\u{e9}\u{1f600}"] {
            let mut quoted = Vec::new();
            quote(text.as_bytes(), &mut quoted);
            assert_eq!(serde_json::from_slice::<String>(&quoted).unwrap(), text);
        }
    }
}
