/// Quotes a text as one word of a POSIX shell.
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.,:=@+%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;

    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        for text in ["", "a b", "it's", "$(id)", "`id`", "a\nb", "\\", "-n", "ä*?", "plain/path-1.2"] {
            let script = format!("printf %s {}", quote(text));
            assert_eq!(Command::new("sh").args(["-c", &script]).run().unwrap().text(), text);
        }
    }

    #[test]
    fn what_needs_no_quotes_gets_none() {
        assert_eq!(quote("tank-hdd/media"), "tank-hdd/media");
        assert_eq!(quote("a b"), "'a b'");
    }
}
