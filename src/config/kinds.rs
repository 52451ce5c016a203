//! The kinds of values that settings have: what is admitted, and the words of its error.

use std::{fmt::Display, ops::RangeInclusive, path::PathBuf, time::Duration};

use toml::de::DeValue;

use super::{
    ConfigError,
    reader::{File, Value},
};

/// A value of the file that was checked. `None`: it counts as missing.
pub(super) type Checked<T> = Result<Option<T>, ConfigError>;

/// A kind of value. Its implementation checks one, and words the error of a wrong one.
pub(super) trait Kind: Sync {
    /// The type of its values in the driver.
    type Value;
    /// Its name in the documentation.
    const NAME: &'static str;
    /// The keys of the tables that its values consist of.
    const ENTRY_KEYS: &'static [&'static str] = &[];

    /// Checks a value of the file.
    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<Self::Value>;
}

/// A kind whose settings may have a default.
pub(super) trait Defaultable: Kind {
    /// A default in a declaration.
    type Default: Copy + Sync;

    /// Returns the default's value.
    fn value(&self, default: Self::Default) -> Self::Value;

    /// Returns the default as users would write it.
    fn toml(&self, default: Self::Default) -> String;
}

/// A string. As with the Go driver, an empty one counts as missing: so it does for all kinds of
/// values that are written as strings.
pub(super) struct Text;

impl Kind for Text {
    type Value = String;
    const NAME: &'static str = "string";

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<String> {
        Ok(Some(file.text_of(value, key)?).filter(|text| !text.is_empty()))
    }
}

impl Defaultable for Text {
    type Default = &'static str;

    fn value(&self, default: &'static str) -> String {
        default.to_owned()
    }

    fn toml(&self, default: &'static str) -> String {
        format!("{default:?}")
    }
}

/// A path.
pub(super) struct FilePath;

impl Kind for FilePath {
    type Value = PathBuf;
    const NAME: &'static str = Text::NAME;

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<PathBuf> {
        Ok(Text.check(file, key, value)?.map(Into::into))
    }
}

/// A list of strings. An empty list is a value.
pub(super) struct Texts;

impl Kind for Texts {
    type Value = Vec<String>;
    const NAME: &'static str = "list of strings";

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<Vec<String>> {
        let DeValue::Array(entries) = value.get_ref() else {
            return Err(file.mistyped(value, key, "a list of strings"));
        };
        entries.iter().map(|entry| file.text_of(entry, key)).collect::<Result<_, _>>().map(Some)
    }
}

/// A table whose keys are the administrator's own, and whose values are strings.
pub(super) struct Pairs;

impl Kind for Pairs {
    type Value = Vec<(String, String)>;
    const NAME: &'static str = "table of strings";

    fn check(
        &self,
        file: &File<'_>,
        key: &str,
        value: Value<'_>,
    ) -> Checked<Vec<(String, String)>> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(file.mistyped(value, key, "a table such as { name = \"value\" }"));
        };
        let pairs = table.iter().map(|(name, value)| {
            Ok((name.get_ref().to_string(), file.text_of(value, name.get_ref())?))
        });
        pairs.collect::<Result<_, _>>().map(Some)
    }
}

/// True or false.
pub(super) struct Flag;

impl Kind for Flag {
    type Value = bool;
    const NAME: &'static str = "boolean";

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<bool> {
        match value.get_ref() {
            DeValue::Boolean(flag) => Ok(Some(*flag)),
            _ => Err(file.mistyped(value, key, "true or false")),
        }
    }
}

impl Defaultable for Flag {
    type Default = bool;

    fn value(&self, default: bool) -> bool {
        default
    }

    fn toml(&self, default: bool) -> String {
        default.to_string()
    }
}

/// A whole number in a range.
pub(super) struct Number<T>(pub(super) RangeInclusive<T>);

impl<T: Copy + TryFrom<i64> + PartialOrd + Display + Sync> Kind for Number<T> {
    type Value = T;
    const NAME: &'static str = "integer";

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<T> {
        let expected = format!("a whole number from {} to {}", self.0.start(), self.0.end());
        let DeValue::Integer(written) = value.get_ref() else {
            return Err(file.mistyped(value, key, &expected));
        };
        i64::from_str_radix(written.as_str(), written.radix())
            .ok()
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| self.0.contains(number))
            .map(Some)
            .ok_or_else(|| {
                file.wrong(&value.span(), format!("{key} is {written}, expected {expected}"))
            })
    }
}

impl<T: Copy + TryFrom<i64> + PartialOrd + Display + Sync> Defaultable for Number<T> {
    type Default = T;

    fn value(&self, default: T) -> T {
        default
    }

    fn toml(&self, default: T) -> String {
        default.to_string()
    }
}

/// The port of a server. As with the Go driver, 0 counts as missing.
pub(super) struct Port;

impl Kind for Port {
    type Value = u16;
    const NAME: &'static str = Number::<u16>::NAME;

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<u16> {
        Ok(Number(0..=u16::MAX).check(file, key, value)?.filter(|port| *port != 0))
    }
}

impl Defaultable for Port {
    type Default = u16;

    fn value(&self, default: u16) -> u16 {
        default
    }

    fn toml(&self, default: u16) -> String {
        default.to_string()
    }
}

/// A length of time, such as `"10m"`.
pub(super) struct Span;

/// The longest length of time.
const LONGEST: Duration = Duration::from_hours(366 * 24);

impl Kind for Span {
    type Value = Duration;
    const NAME: &'static str = "duration";

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<Duration> {
        let Some(text) = Text.check(file, key, value)? else { return Ok(None) };
        match humantime::parse_duration(&text) {
            Ok(span) if span <= LONGEST => Ok(Some(span)),
            _ => Err(file.wrong(
                &value.span(),
                format!("{key} is {text:?}, expected a duration such as \"90s\", \"10m\" or \"1h 30m\", a year at most"),
            )),
        }
    }
}

impl Defaultable for Span {
    type Default = &'static str;

    #[allow(clippy::expect_used, reason = "an error of a declaration, which a test finds")]
    fn value(&self, default: &'static str) -> Duration {
        humantime::parse_duration(default).expect("the default is a duration")
    }

    fn toml(&self, default: &'static str) -> String {
        format!("{default:?}")
    }
}

/// One of several words.
pub(super) struct Choice<T: 'static> {
    words: &'static [(&'static str, T)],
    is_any_case: bool,
}

/// One of these words, written exactly so.
pub(super) const fn choice<T>(words: &'static [(&'static str, T)]) -> Choice<T> {
    Choice { words, is_any_case: false }
}

/// One of these words, in any case.
pub(super) const fn choice_in_any_case<T>(words: &'static [(&'static str, T)]) -> Choice<T> {
    Choice { words, is_any_case: true }
}

impl<T: Copy + Sync> Choice<T> {
    fn find(&self, text: &str) -> Option<T> {
        let is_meant = |word: &str| {
            if self.is_any_case { word.eq_ignore_ascii_case(text) } else { word == text }
        };
        self.words.iter().find(|(word, _)| is_meant(word)).map(|(_, value)| *value)
    }

    fn expected(&self) -> String {
        let words: Vec<&str> = self.words.iter().map(|(word, _)| *word).collect();
        match words.as_slice() {
            [one, other] => format!("{one:?} or {other:?}"),
            many => format!("one of {}", many.join(", ")),
        }
    }
}

impl<T: Copy + Sync> Kind for Choice<T> {
    type Value = T;
    const NAME: &'static str = Text::NAME;

    fn check(&self, file: &File<'_>, key: &str, value: Value<'_>) -> Checked<T> {
        let Some(text) = Text.check(file, key, value)? else { return Ok(None) };
        self.find(&text).map(Some).ok_or_else(|| {
            let expected = self.expected();
            file.wrong(&value.span(), format!("{key} is {text:?}, expected {expected}"))
        })
    }
}

impl<T: Copy + Sync> Defaultable for Choice<T> {
    type Default = &'static str;

    #[allow(clippy::expect_used, reason = "an error of a declaration, which a test finds")]
    fn value(&self, default: &'static str) -> T {
        self.find(default).expect("the default is one of the words")
    }

    fn toml(&self, default: &'static str) -> String {
        format!("{default:?}")
    }
}
