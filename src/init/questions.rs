//! Questions at the terminal: a text, one of a list, several of a list, yes or no.

use std::io::{self, BufRead, Write};

use states::foreign_text::tame;

use super::InitError;

/// Something to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    /// What is written to the file.
    pub(super) value: String,
    /// What people know it by.
    pub(super) about: String,
}

impl Offer {
    /// An offer that needs no explanation.
    pub(super) fn plain(value: String) -> Self {
        Self { value, about: String::new() }
    }
}

/// Asks questions. A number chooses from the list above it; another text is taken as it is, as the
/// account may have more than can be listed.
pub(super) struct Questions<R, W> {
    answers: R,
    out: W,
}

impl Questions<io::StdinLock<'static>, io::Stderr> {
    /// Asks at the terminal. The questions go to standard error, as no program wants to read them.
    pub(super) fn at_terminal() -> Self {
        Self { answers: io::stdin().lock(), out: io::stderr() }
    }
}

impl<R: BufRead, W: Write> Questions<R, W> {
    /// Asks for a text, which may have a default.
    ///
    /// # Errors
    /// When the answers end.
    pub(super) fn text(&mut self, what: &str, default: Option<&str>) -> Result<String, InitError> {
        loop {
            let answer = self.ask(what, default)?;
            match default {
                _ if !answer.is_empty() => return Ok(answer),
                Some(default) => return Ok(default.to_owned()),
                None => writeln!(self.out, "An answer is needed.")?,
            }
        }
    }

    /// Asks for one of a list; the first is the default.
    ///
    /// # Errors
    /// When the answers end.
    pub(super) fn one(&mut self, what: &str, offers: &[Offer]) -> Result<String, InitError> {
        self.list(offers)?;
        let default = offers.first().map(|offer| offer.value.as_str());
        loop {
            let answer = self.text(what, default)?;
            if let Some(chosen) = chosen(&answer, offers) {
                return Ok(chosen);
            }
            writeln!(self.out, "There is no number {answer}.")?;
        }
    }

    /// Asks for several of a list, separated by blanks or commas. Where one is needed, the first is
    /// the default.
    ///
    /// # Errors
    /// When the answers end.
    pub(super) fn several(
        &mut self,
        what: &str,
        offers: &[Offer],
        is_needed: bool,
    ) -> Result<Vec<String>, InitError> {
        self.list(offers)?;
        let default = offers.first().map(|offer| offer.value.as_str()).filter(|_| is_needed);
        loop {
            let answer = if is_needed { self.text(what, default)? } else { self.ask(what, None)? };
            let words = answer.split([',', ' ']).filter(|word| !word.is_empty());
            match words.map(|word| chosen(word, offers)).collect::<Option<Vec<String>>>() {
                Some(all) => return Ok(all),
                None => writeln!(self.out, "A number is not in the list.")?,
            }
        }
    }

    /// Asks a question of yes or no, with a default.
    ///
    /// # Errors
    /// When the answers end.
    pub(super) fn yes(&mut self, what: &str, default: bool) -> Result<bool, InitError> {
        let shown = if default { "y" } else { "n" };
        loop {
            match self.ask(what, Some(shown))?.to_lowercase().as_str() {
                "" => return Ok(default),
                "y" | "yes" => return Ok(true),
                "n" | "no" => return Ok(false),
                _ => writeln!(self.out, "y or n")?,
            }
        }
    }

    fn list(&mut self, offers: &[Offer]) -> io::Result<()> {
        for (number, offer) in (1..).zip(offers) {
            let line = format!("{number:>4}) {}  {}", offer.value, offer.about);
            writeln!(self.out, "{}", tame(line.trim_end()))?;
        }
        Ok(())
    }

    fn ask(&mut self, what: &str, default: Option<&str>) -> Result<String, InitError> {
        let default = default.map_or_else(String::new, |default| format!(" [{}]", tame(default)));
        write!(self.out, "{what}{default}: ")?;
        self.out.flush()?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            writeln!(self.out)?;
            return Err(InitError::Ended);
        }
        Ok(line.trim().to_owned())
    }
}

/// What an answer means. `None`: a number that is not in the list.
fn chosen(answer: &str, offers: &[Offer]) -> Option<String> {
    let Ok(number) = answer.parse::<usize>() else { return Some(answer.to_owned()) };
    if offers.is_empty() {
        return Some(answer.to_owned());
    }
    Some(offers.get(number.checked_sub(1)?)?.value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn questions(answers: &'static str) -> Questions<&'static [u8], Vec<u8>> {
        Questions { answers: answers.as_bytes(), out: Vec::new() }
    }

    fn offers() -> Vec<Offer> {
        ["subnet-a", "subnet-b"].map(|value| Offer::plain(value.to_owned())).to_vec()
    }

    #[test]
    fn a_number_chooses_and_another_text_is_taken_as_it_is() {
        let one = |answers| questions(answers).one("Which", &offers()).ok();
        assert_eq!(one("2\n").as_deref(), Some("subnet-b"));
        assert_eq!(one("\n").as_deref(), Some("subnet-a"));
        assert_eq!(one("subnet-x\n").as_deref(), Some("subnet-x"));
        assert_eq!(one("0\n3\n1\n").as_deref(), Some("subnet-a"), "it is asked again");
        assert_eq!(one("3\n"), None, "the answers have ended");
    }

    #[test]
    fn several_are_separated_by_blanks_or_commas() {
        let several = |answers, needed| questions(answers).several("Which", &offers(), needed).ok();
        assert_eq!(several("2, 1\n", true).unwrap(), ["subnet-b", "subnet-a"]);
        assert_eq!(several("\n", true).unwrap(), ["subnet-a"]);
        assert_eq!(several("\n", false).unwrap(), Vec::<String>::new());
        assert_eq!(several("2 9\nx\n", true).unwrap(), ["x"]);
    }

    #[test]
    fn a_text_is_needed_without_a_default() {
        assert_eq!(questions("\n\nx\n").text("Region", None).unwrap(), "x");
        assert!(matches!(questions("").text("Region", Some("x")), Err(InitError::Ended)));
        assert!(questions("maybe\nyes\n").yes("Public", false).unwrap());
        assert!(!questions("\n").yes("Public", false).unwrap());
        assert!(questions("\n").yes("Public", true).unwrap());
    }

    #[test]
    fn foreign_names_do_not_control_the_terminal() {
        let mut asked = questions("1\n");
        asked.one("Which", &[Offer::plain("a\u{1b}[2J".to_owned())]).unwrap();
        assert!(!String::from_utf8(asked.out).unwrap().contains('\u{1b}'));
    }
}
