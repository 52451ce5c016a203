//! Splits a command into words like the agent, by google/shlex's rules, which differ from a
//! shell's. (The crate `shlex` follows POSIX: there `"\a"` keeps its backslash, here it does not.)

/// Why a command cannot be split; the words are google/shlex's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfinished {
    #[error("EOF found after escape character")]
    Escape,
    #[error("EOF found when expecting closing quote")]
    Quote,
}

/// Splits a command: words between blanks, `'…'` as it stands, `"…"` with `\` before any
/// character, `#` at the start of a word for the rest of the line.
pub(super) fn split(command: &str) -> Result<Vec<String>, Unfinished> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = command.chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '#' if word.is_none() => {
                rest.find(|c| *c == '\n');
            }
            '\\' => word.get_or_insert_default().push(rest.next().ok_or(Unfinished::Escape)?),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(Unfinished::Quote)? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(Unfinished::Quote)? {
                        '"' => break,
                        '\\' => word.push(rest.next().ok_or(Unfinished::Escape)?),
                        c => word.push(c),
                    }
                }
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_the_agent_does() {
        let cases: [(&str, &[&str]); 9] = [
            (
                "/bin/sh -c 'stty raw; printf \"%s\\n\" x'",
                &["/bin/sh", "-c", "stty raw; printf \"%s\\n\" x"],
            ),
            ("  a\tb\r\nc  ", &["a", "b", "c"]),
            (r#""a\"b" "\n""#, &["a\"b", "n"]),
            (r"a\ b 'c\'d", &["a b", r"c\d"]),
            ("'' a\"\"b \"\"", &["", "ab", ""]),
            ("a#b # c d\n e", &["a#b", "e"]),
            ("# only", &[]),
            ("pre'fi'x\"ed\"", &["prefixed"]),
            ("", &[]),
        ];
        for (command, expected) in cases {
            assert_eq!(split(command).unwrap(), expected, "{command}");
        }
        assert_eq!(split("a 'b"), Err(Unfinished::Quote));
        assert_eq!(split("\"b"), Err(Unfinished::Quote));
        assert_eq!(split("b\\"), Err(Unfinished::Escape));
        assert_eq!(split("\"b\\"), Err(Unfinished::Escape));
    }
}
