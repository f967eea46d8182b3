//! `[checks.NAME]`.

use crate::model::{Check, Probe};
use crate::names::Name;
use crate::read::accept;
use crate::reader::{At, Reader};
use crate::report::Finding;
use crate::scope::Kind;

const PROBES: &str = "one of `http = { url = \"http://…\" }`, `tcp = { address = \"192.168.1.101:80\" }`, \
    `command = { run = \"…\" }` and `denied = { run = \"…\", contains = \"access denied\" }`";

pub(crate) fn check(reader: &mut Reader<'_>) -> Option<Check> {
    let from: Option<At<Name>> = reader.optional("from");
    if let Some(from) = &from {
        reader.scope.refer(Kind::Machine, from.value.as_str(), &from.place);
    }
    let timeout = if reader.entry("timeout").is_some() { reader.number("timeout", &(1..=3600)) } else { Some(10) };
    let retry = if reader.entry("retry").is_some() { reader.number("retry", &(0..=3600)) } else { Some(0) };
    let probe = probe(reader);
    Some(Check { from: from.map(|from| from.value), probe: probe?, timeout: timeout?, retry: retry? })
}

fn probe(reader: &mut Reader<'_>) -> Option<Probe> {
    let given: Vec<_> = ["http", "tcp", "command", "denied"].into_iter().filter_map(|key| reader.entry(key)).collect();
    match given.as_slice() {
        [] => {
            let finding = Finding::at(&reader.table.place, format!("{} tries nothing", reader.what));
            reader.scope.report(finding.help(format!("add {PROBES}")));
        }
        [_] => {}
        [first, second, ..] => {
            let finding = Finding::at(&second.place, format!("{} tries two things", reader.what)).label("the second");
            let help = "make a check of its own for each, so that a report says which failed";
            reader.scope.report(finding.also(&first.place, "the first").help(help));
        }
    }
    match given.first()?.key.as_str() {
        "http" => http(reader.table("http")?),
        "tcp" => tcp(reader.table("tcp")?),
        "command" => command(reader.table("command")?),
        _ => denied(reader.table("denied")?),
    }
}

fn http(mut reader: Reader<'_>) -> Option<Probe> {
    let url: Option<At<String>> = reader.required("url", "`url = \"http://192.168.1.101/\"`");
    let host = reader.optional("host");
    let status = if reader.entry("status").is_some() { reader.number("status", &(100..=599)) } else { Some(200) };
    let contains = reader.optional("contains");
    let url = url.and_then(|url| {
        let good = url.value.strip_prefix("http://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
            && !url.value.contains(|c: char| c.is_whitespace() || c.is_control());
        let shape = "http:// and what to ask for, as http://192.168.1.101/; for https use a `command` with curl";
        accept(url, good, "a URL to check", shape, reader.scope)
    });
    reader.finish();
    Some(Probe::Http { url: url?, host, status: status?, contains })
}

fn tcp(mut reader: Reader<'_>) -> Option<Probe> {
    let address: Option<At<String>> = reader.required("address", "`address = \"192.168.1.101:80\"`");
    let address = address.and_then(|address| {
        let good = address.value.rsplit_once(':').is_some_and(|(host, port)| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b".-".contains(&b);
            !host.is_empty() && host.bytes().all(plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        accept(address, good, "an address to connect to", "a host and a port, as 192.168.1.101:80", reader.scope)
    });
    reader.finish();
    Some(Probe::Tcp { address: address? })
}

fn command(mut reader: Reader<'_>) -> Option<Probe> {
    let command = reader.required("run", "`run = \"systemctl is-active docker\"`");
    let contains = reader.optional("contains");
    reader.finish();
    Some(Probe::Command { command: command?, contains })
}

fn denied(mut reader: Reader<'_>) -> Option<Probe> {
    let command = reader.required("run", "`run = \"mount -t nfs …\"`");
    let example = "`contains = \"access denied\"`: a command can fail for many reasons, and only one proves the denial";
    let contains = reader.required("contains", example);
    reader.finish();
    Some(Probe::Denied { command: command?, contains: contains? })
}
