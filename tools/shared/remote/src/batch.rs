//! Many questions in one round trip: one script that asks them all, and its answer, taken apart.

use crate::fleet::{Answers, Probe};
use crate::local::Output;
use crate::quote::quote;

/// How long one probe may take, in seconds; it ends with 124 then (timeout(1)).
pub(crate) const PROBE_SECONDS: u64 = 60;

const MAGIC: &str = "hearth-answers 1";

/// Writes the script that runs every probe in a shell of its own and prints, in this order: a line with the number of
/// probes; each probe's status, one a line; the sizes of each one's standard output and error, one a line; then those
/// outputs, byte by byte.
///
/// Outputs go through files, since a shell variable can hold neither zero bytes nor a final newline. The sizes and the
/// bytes are read by one process each for all probes: starting a process takes 10 ms in an emulated guest.
pub(crate) fn script(probes: &[&Probe]) -> String {
    let mut text = String::from(
        "umask 077\n\
         d=$(mktemp -d /run/hearth.XXXXXXXX 2>/dev/null || mktemp -d)\n\
         trap 'rm -rf \"$d\"' EXIT\n\
         trap 'exit 143' HUP INT TERM\n\
         cd \"$d\"\n\
         r=\n",
    );
    let mut files = String::new();
    for (index, probe) in probes.iter().enumerate() {
        let script = quote(&probe.script);
        text += &format!(
            "s=0; (cd / && exec timeout -k 2 {PROBE_SECONDS} sh -euc {script}) >{index}.o 2>{index}.e </dev/null || s=$?\n\
             r=\"$r$s\n\"\n"
        );
        files += &format!(" {index}.o {index}.e");
    }
    text += &format!("printf '{MAGIC} {}\\n%s' \"$r\"\n", probes.len());
    if !files.is_empty() {
        text += &format!("stat -c %s{files}\ncat{files}\n");
    }
    text
}

/// Takes the script's output apart.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn parse(probes: &[&Probe], bytes: &[u8]) -> Result<Answers, String> {
    let mut rest = bytes;
    let head = line(&mut rest)?;
    if head != format!("{MAGIC} {}", probes.len()) {
        return Err(format!("the answers begin with '{head}'"));
    }
    let mut numbers = |count: usize| -> Result<Vec<usize>, String> {
        (0..count)
            .map(|_| line(&mut rest).and_then(|text| text.parse().map_err(|_| format!("'{text}' is no number"))))
            .collect()
    };
    let statuses = numbers(probes.len())?;
    let sizes = numbers(probes.len() * 2)?;
    let mut answers = Answers::new();
    for (index, probe) in probes.iter().enumerate() {
        let stdout = take(&mut rest, sizes[index * 2])?;
        let stderr = take(&mut rest, sizes[index * 2 + 1])?;
        let status = i32::try_from(statuses[index]).map_err(|_| "a status is out of range".to_owned())?;
        let output = Output { command: probe.id.clone(), status, stdout, stderr };
        if answers.insert(probe.id.clone(), output).is_some() {
            return Err(format!("'{}' was asked twice", probe.id));
        }
    }
    if rest.is_empty() { Ok(answers) } else { Err(format!("{} bytes follow the answers", rest.len())) }
}

fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a str, String> {
    let end = rest.iter().position(|b| *b == b'\n').ok_or("the answers end too early")?;
    let (line, tail) = rest.split_at(end);
    *rest = &tail[1..];
    std::str::from_utf8(line).map_err(|_| "a line of the answers is no text".to_owned())
}

fn take(rest: &mut &[u8], size: usize) -> Result<Vec<u8>, String> {
    if rest.len() < size {
        return Err(format!("{} of {size} bytes of an answer are missing", size - rest.len()));
    }
    let (taken, tail) = rest.split_at(size);
    *rest = tail;
    Ok(taken.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Command;

    fn probe(id: &str, script: &str) -> Probe {
        Probe { host: "pve1".parse().unwrap(), id: id.into(), script: script.into() }
    }

    fn ask(probes: &[Probe]) -> Answers {
        let probes: Vec<&Probe> = probes.iter().collect();
        let output = Command::new("sh").args(["-euc", &script(&probes)]).run().unwrap();
        parse(&probes, &output.stdout).unwrap()
    }

    #[test]
    fn each_probe_has_its_own_output_error_and_status() {
        let answers = ask(&[
            probe("a", "echo out; echo err >&2; exit 3"),
            probe("b", "printf 'x\\0y\\n\\n'"),
            probe("c", "echo before; false; echo after"),
            probe("d", "echo it\\'s $((1 + 1)) \"a  b\""),
            probe("e", "cat; pwd"),
            probe("f", "kill -TERM $$"),
        ]);
        let seen = |id: &str| {
            let answer = &answers[id];
            (answer.status, answer.text(), String::from_utf8_lossy(&answer.stderr).into_owned())
        };
        assert_eq!(seen("a"), (3, "out\n".into(), "err\n".into()));
        assert_eq!(answers["b"].stdout, b"x\0y\n\n");
        assert_eq!(seen("c"), (1, "before\n".into(), String::new()));
        assert_eq!(seen("d"), (0, "it's 2 a  b\n".into(), String::new()));
        assert_eq!(seen("e"), (0, "/\n".into(), String::new()));
        assert_eq!(seen("f").0, 143);
    }

    #[test]
    fn nothing_stays_behind() {
        let folder = tempfile::tempdir().unwrap();
        let probes = [probe("a", "echo x")];
        let probes: Vec<&Probe> = probes.iter().collect();
        // A folder that only this test makes temporary folders in.
        let script = script(&probes).replace("/run/hearth.", &format!("{}/hearth.", folder.path().display()));
        Command::new("sh").args(["-euc", &script]).run().unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_broken_answer_is_an_error_that_says_why() {
        let (a, b) = (probe("a", ""), probe("a", ""));
        let wrong = |probes: &[&Probe], text: &str| parse(probes, text.as_bytes()).unwrap_err();
        assert_eq!(wrong(&[&a], "hello\n"), "the answers begin with 'hello'");
        assert_eq!(wrong(&[&a], "hearth-answers 1 1\n0\n2\n"), "the answers end too early");
        assert_eq!(wrong(&[&a], "hearth-answers 1 1\nx\n"), "'x' is no number");
        assert_eq!(wrong(&[&a], "hearth-answers 1 1\n0\n3\n0\nab"), "1 of 3 bytes of an answer are missing");
        assert_eq!(wrong(&[&a], "hearth-answers 1 1\n0\n1\n0\nab"), "1 bytes follow the answers");
        assert_eq!(wrong(&[&a, &b], "hearth-answers 1 2\n0\n0\n0\n0\n0\n0\n"), "'a' was asked twice");
    }

    #[test]
    fn asking_nothing_answers_nothing() {
        assert!(ask(&[]).is_empty());
    }
}
