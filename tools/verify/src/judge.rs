//! What a host's answer says about one thing: what was seen, or what is wrong.

use remote::Output;
use serde_json::Value;

/// What was seen, for people; or why the check failed.
pub type Verdict = Result<String, String>;

/// Returns what a probe printed, where it ended with 0.
///
/// # Errors
/// The code and the end of what it said.
pub fn text(output: &Output) -> Result<String, String> {
    match output.status {
        0 => Ok(output.text()),
        124 => Err("the question was not answered in time".to_owned()),
        code => {
            let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
            Err(format!("the question ended with {code}: {}", remote::local::tail(said)))
        }
    }
}

/// Judges a pool by `zpool list -Hp -o name,health`.
pub fn pool(list: &str, name: &str) -> Verdict {
    let found = list.lines().filter_map(|line| line.split_once('\t')).find(|(pool, _)| *pool == name);
    match found {
        None => Err(format!("there is no pool '{name}'")),
        Some((_, "ONLINE")) => Ok("ONLINE".to_owned()),
        Some((_, health)) => Err(format!("it is {health}")),
    }
}

/// Judges a dataset by `zfs list -Hp -o name,mounted,mountpoint`.
pub fn dataset(list: &str, name: &str) -> Verdict {
    let found =
        list.lines().map(|line| line.split('\t').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name));
    match found.as_deref() {
        None => Err(format!("there is no dataset '{name}'")),
        Some([_, "yes", place]) => Ok(format!("mounted on {place}")),
        Some(_) => Err("it is not mounted".to_owned()),
    }
}

/// Judges an export by `exportfs -s`: `/path  client(options)` a line.
pub fn export(list: &str, path: &str, client: &str, options: &[String]) -> Verdict {
    let found = list.lines().find_map(|line| {
        let (exported, rest) = line.split_once(char::is_whitespace)?;
        let (to, active) = rest.trim().strip_suffix(')')?.split_once('(')?;
        (exported == path && to == client).then_some(active)
    });
    let active = found.ok_or_else(|| format!("{path} is not exported to {client}"))?;
    let has = |option: &&String| !active.split(',').any(|word| word == option.as_str());
    let missing: Vec<_> = options.iter().filter(has).map(String::as_str).collect();
    if missing.is_empty() { Ok(active.to_owned()) } else { Err(format!("without {}: {active}", missing.join(", "))) }
}

/// Judges a mount by `findmnt --json --list -o TARGET,SOURCE,FSTYPE,OPTIONS`.
pub fn mount(json: &str, point: &str, source: &str) -> Verdict {
    let parsed: Value = serde_json::from_str(json).map_err(|error| format!("findmnt's answer is no JSON: {error}"))?;
    let all = parsed["filesystems"].as_array().map(Vec::as_slice).unwrap_or_default();
    // The last of several mounts on one point is the one that is seen.
    let found = all.iter().rev().find(|mount| mount["target"] == point);
    let found = found.ok_or_else(|| format!("nothing is mounted on {point}"))?;
    let of = |key: &str| found[key].as_str().unwrap_or_default();
    if of("source") != source || !of("fstype").starts_with("nfs") {
        return Err(format!("{} ({}) is mounted there, not {source}", of("source"), of("fstype")));
    }
    Ok(format!("{source} ({})", of("fstype")))
}

/// Judges a unit by `systemctl show --property=Id --property=ActiveState --property=SubState`.
pub fn unit(blocks: &str, name: &str) -> Verdict {
    for block in blocks.split("\n\n") {
        let of = |key: &str| {
            let pairs = block.lines().filter_map(|line| line.split_once('='));
            pairs.filter(|(found, _)| *found == key).map(|(_, value)| value).next().unwrap_or_default()
        };
        if of("Id") == name {
            let state = format!("{} ({})", of("ActiveState"), of("SubState"));
            return if of("ActiveState") == "active" { Ok(state) } else { Err(format!("it is {state}")) };
        }
    }
    Err("systemd was not asked about it".to_owned())
}

/// Judges something by a line `ok NAME` or `bad NAME: why`.
pub fn line(lines: &str, name: &str) -> Verdict {
    for line in lines.lines() {
        if line == format!("ok {name}") {
            return Ok(String::new());
        }
        if let Some(why) = line.strip_prefix("bad ").and_then(|rest| rest.strip_prefix(name)?.strip_prefix(':')) {
            return Err(why.trim().to_owned());
        }
    }
    Err("nothing was said about it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_good_only_when_it_is_online() {
        let list = "tank-hdd\tONLINE\ntank-ssd\tDEGRADED\n";
        assert_eq!(pool(list, "tank-hdd").unwrap(), "ONLINE");
        assert_eq!(pool(list, "tank-ssd").unwrap_err(), "it is DEGRADED");
        assert_eq!(pool(list, "tank").unwrap_err(), "there is no pool 'tank'");
    }

    #[test]
    fn a_dataset_must_be_mounted() {
        let list = "tank\tyes\t/tank\ntank/a\tno\t/tank/a\n";
        assert_eq!(dataset(list, "tank").unwrap(), "mounted on /tank");
        assert_eq!(dataset(list, "tank/a").unwrap_err(), "it is not mounted");
        assert_eq!(dataset(list, "tank/b").unwrap_err(), "there is no dataset 'tank/b'");
    }

    #[test]
    fn an_export_must_be_active_for_the_client_with_its_options() {
        let list = "/tank/a  192.168.1.101(sync,wdelay,hide,no_subtree_check,sec=sys,rw,secure,no_root_squash)\n\
                    /tank/b  192.168.1.101(async,ro,root_squash)\n";
        let options = ["rw", "sync", "no_root_squash"].map(str::to_owned);
        assert!(export(list, "/tank/a", "192.168.1.101", &options).unwrap().starts_with("sync,"));
        assert_eq!(
            export(list, "/tank/a", "192.168.1.111", &options).unwrap_err(),
            "/tank/a is not exported to 192.168.1.111"
        );
        assert_eq!(
            export(list, "/tank/b", "192.168.1.101", &options).unwrap_err(),
            "without rw, sync, no_root_squash: async,ro,root_squash"
        );
    }

    #[test]
    fn a_mount_must_be_of_the_right_server() {
        let json = r#"{"filesystems":[
            {"target":"/mnt/a","source":"192.168.1.100:/tank/a","fstype":"nfs4","options":"rw"},
            {"target":"/mnt/b","source":"192.168.1.9:/tank/b","fstype":"nfs4","options":"rw"},
            {"target":"/mnt/c","source":"192.168.1.100:/tank/c","fstype":"nfs4","options":"rw"},
            {"target":"/mnt/c","source":"/dev/sda1","fstype":"ext4","options":"rw"}]}"#;
        assert_eq!(mount(json, "/mnt/a", "192.168.1.100:/tank/a").unwrap(), "192.168.1.100:/tank/a (nfs4)");
        let error = |point: &str| mount(json, point, "192.168.1.100:/tank/x").unwrap_err();
        assert_eq!(error("/mnt/b"), "192.168.1.9:/tank/b (nfs4) is mounted there, not 192.168.1.100:/tank/x");
        assert_eq!(error("/mnt/c"), "/dev/sda1 (ext4) is mounted there, not 192.168.1.100:/tank/x");
        assert_eq!(error("/mnt/d"), "nothing is mounted on /mnt/d");
        assert!(mount("", "/mnt/a", "x").unwrap_err().starts_with("findmnt's answer is no JSON"));
    }

    #[test]
    fn a_unit_must_be_active() {
        let blocks =
            "Id=a.service\nActiveState=active\nSubState=running\n\nId=b.mount\nActiveState=failed\nSubState=failed\n";
        assert_eq!(unit(blocks, "a.service").unwrap(), "active (running)");
        assert_eq!(unit(blocks, "b.mount").unwrap_err(), "it is failed (failed)");
        assert!(unit(blocks, "c.mount").is_err());
    }

    #[test]
    fn a_line_speaks_for_its_own_name_only() {
        let lines = "ok 127.0.0.1:80\nbad 127.0.0.1:8080: nothing listens\n";
        assert!(line(lines, "127.0.0.1:80").is_ok());
        assert_eq!(line(lines, "127.0.0.1:8080").unwrap_err(), "nothing listens");
        assert!(line(lines, "127.0.0.1:8").is_err());
    }

    #[test]
    fn a_question_that_failed_passes_no_check() {
        let output = |status, stderr: &str| Output {
            command: String::new(),
            status,
            stdout: b"ONLINE".to_vec(),
            stderr: stderr.into(),
        };
        assert_eq!(text(&output(0, "")).unwrap(), "ONLINE");
        assert_eq!(text(&output(1, "no zpool\n")).unwrap_err(), "the question ended with 1: no zpool");
        assert_eq!(text(&output(124, "")).unwrap_err(), "the question was not answered in time");
    }
}
