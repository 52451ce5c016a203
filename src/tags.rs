//! Tags as AWS admits them: `^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$`, keys of 1 to 128 and values of up to
//! 256 characters, neither beginning with `aws:` in any case (Amazon ECS API reference, `Tag`). A
//! combining mark is not of `\p{L}`, although it may be part of a word. Lengths are counted in
//! UTF-16 units: never less than AWS counts.

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory as _};

const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;
/// AWS's own prefix.
const RESERVED: &str = "aws:";

/// Whether AWS admits this key.
#[must_use]
pub fn is_key(text: &str) -> bool {
    !text.is_empty() && is_admitted(text, LONGEST_KEY)
}

/// Whether AWS admits this value.
#[must_use]
pub fn is_value(text: &str) -> bool {
    is_admitted(text, LONGEST_VALUE)
}

/// The text as a value that AWS admits: `_` stands for each character that it does not, and what is
/// too long is cut off.
#[must_use]
pub fn value(text: &str) -> String {
    let admitted = |c: char| match c.general_category_group() {
        GeneralCategoryGroup::Separator => ' ',
        _ if is_admitted_char(c) => c,
        _ => '_',
    };
    let mut value = String::new();
    if is_reserved(text.trim_start()) {
        value.push('_');
    }
    let mut units = value.len();
    for c in text.trim().chars().map(admitted) {
        units += c.len_utf16();
        if units > LONGEST_VALUE {
            break;
        }
        value.push(c);
    }
    value.truncate(value.trim_end().len());
    value
}

fn is_admitted(text: &str, longest: usize) -> bool {
    text.encode_utf16().count() <= longest
        && !is_reserved(text)
        && text.chars().all(is_admitted_char)
}

fn is_admitted_char(c: char) -> bool {
    use GeneralCategoryGroup::{Letter, Number, Separator};
    "_.:/=+-@".contains(c) || matches!(c.general_category_group(), Letter | Number | Separator)
}

fn is_reserved(text: &str) -> bool {
    text.get(..RESERVED.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(RESERVED))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_keep_what_aws_admits_and_nothing_else() {
        for (text, expected) in [
            ("build [linux, x86]\u{7}", "build _linux_ x86__"),
            ("  ünïcode 五 ٣ ", "ünïcode 五 ٣"),
            // A combining acute accent, a Devanagari vowel sign, a circled letter: alphabetic, and
            // not of \p{L}.
            ("e\u{301} \u{915}\u{93f} \u{24b6}", "e_ \u{915}_ _"),
            ("AWS:cost", "_AWS:cost"),
            (" aws:x", "_aws:x"),
            ("awsome", "awsome"),
            ("a\u{2028}b\u{a0}c", "a b c"),
            ("", ""),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
        assert_eq!(value(&"x".repeat(300)).len(), 256);
        assert_eq!(value(&"𠮷".repeat(300)).encode_utf16().count(), 256);
        assert_eq!(value(&format!("aws:{}", "x".repeat(300))).len(), 256);
    }

    #[test]
    fn keys_and_values_that_aws_refuses_are_known() {
        assert!(
            is_key("team")
                && is_key(&"k".repeat(128))
                && is_value("")
                && is_value(&"v".repeat(256))
        );
        for key in ["", "aws:x", "Aws:x", "a*b", "a\u{301}", "tab\t", &"k".repeat(129)] {
            assert!(!is_key(key), "{key:?}");
        }
        for value in ["aws:x", "AWS:", "a,b", "\u{93f}", &"v".repeat(257)] {
            assert!(!is_value(value), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn every_value_is_admitted(text in prop_oneof![any::<String>(), "(?i)[ ]{0,2}aws:\\PC{0,300}", "[\\pM\\pL\\pZ𠮷]{0,400}"]) {
            let made = value(&text);
            prop_assert!(is_value(&made), "{text:?} became {made:?}");
            prop_assert_eq!(value(&made), made);
        }
    }
}
