//! Lower-case hexadecimal.

/// `[0xAB, 1]` -> `"ab01"`.
pub fn emit(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// The bytes of `text`, upper or lower case, or `None` when it is not an even number of hexadecimal digits.
pub fn parse(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits?;
    (digits.len() % 2 == 0).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Exactly `N` bytes.
pub fn parse_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    parse(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_emitted_parses_back_and_the_rest_is_refused() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(parse(&emit(&all)).unwrap(), all);
        assert_eq!(parse("AbCd"), Some(vec![0xab, 0xcd]));
        for bad in ["a", "zz", "0x12", "äö"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse_array::<2>("abcdef"), None);
    }
}
