//! The report of a run: one HTML file with nothing from elsewhere.

mod html;

use converge::{CheckResult, Kind, seconds};

use crate::record::{ChangeRun, Outcome, Run, StageRun};
use html::{escape, node};

const STYLE: &str = include_str!("style.css");

/// Writes the report of a run.
pub fn html(run: &Run) -> String {
    let title = format!("{} · {}", run.site, run.begin);
    let body =
        [header(run), before(run), figures(run), stages(run), changes(run), checks(run), artifacts(run), footer(run)]
            .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Hearth: {}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(&title)
    )
}

fn header(run: &Run) -> String {
    let word = match run.outcome {
        Outcome::Unchanged => "verified, nothing to change",
        Outcome::Changed => "changed and verified",
        Outcome::Failed => "failed",
        Outcome::Skipped => "skipped",
    };
    let badge = node("span", &format!("badge {}", run.outcome.word()), word);
    let line = format!("{} · generation {} · {}", run.begin, run.generation, short(&run.digest));
    let error = run.error.as_ref().map(|error| node("div", "error mono", error)).unwrap_or_default();
    format!("<header><h1>Site {}</h1>{badge}<p>{}</p></header>\n{error}\n", escape(&run.site), escape(&line))
}

/// What was told before the first change: what stays as it is, and the snapshots.
fn before(run: &Run) -> String {
    let line = |what: &str, text: &String| node("p", "mono", &format!("{what}: {text}"));
    let stays = run.stays.iter().map(|text| line("stays as it is", text));
    stays.chain(run.snapshots.iter().map(|text| line("snapshot before the change", text))).collect()
}

fn figures(run: &Run) -> String {
    let all: Vec<&CheckResult> = run.stages.iter().flat_map(|stage| &stage.checks).collect();
    let passed = all.iter().filter(|check| check.failure.is_none()).count();
    let changes: usize = run.stages.iter().map(|stage| stage.changes.len()).sum();
    let cost = |key: &str| run.cost[key].as_u64().unwrap_or_default();
    let figures = [
        ("wall time", seconds(cost("milliseconds"))),
        ("changes", changes.to_string()),
        ("checks passed", format!("{passed} of {}", all.len())),
        ("API calls", cost("api_calls").to_string()),
        ("SSH sessions", cost("ssh_sessions").to_string()),
        ("round trips", cost("round_trips").to_string()),
        ("sent", size(cost("bytes_sent"))),
        ("received", size(cost("bytes_received"))),
    ];
    let cells: String =
        figures.iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(value))).collect();
    format!("<dl class=\"figures\">{cells}</dl>\n")
}

fn stages(run: &Run) -> String {
    let end = run.stages.iter().map(|stage| stage.begin + stage.milliseconds).max().unwrap_or_default();
    let from = run.stages.iter().map(|stage| stage.begin).min().unwrap_or_default();
    let rows: String = run.stages.iter().map(|stage| stage_row(stage, from, end)).collect();
    format!(
        "<h2>Stages <small>built in {}, looked in {}</small></h2>\n<div class=\"card\"><table>\n<tr><th>Stage</th><th>Tool</th>\
         <th>Outcome</th><th class=\"number\">Time</th><th class=\"lane\">When</th></tr>\n{rows}</table></div>\n",
        seconds(run.build_milliseconds),
        seconds(run.look_milliseconds)
    )
}

#[allow(clippy::cast_precision_loss, reason = "a bar's place in per cent needs no more than a few digits")]
fn stage_row(stage: &StageRun, from: u64, end: u64) -> String {
    let whole = end.saturating_sub(from).max(1) as f64;
    let left = (stage.begin - from) as f64 / whole * 100.0;
    let width = (stage.milliseconds as f64 / whole * 100.0).min(100.0 - left);
    let outcome = stage.outcome.word();
    let word = if stage.outcome == Outcome::Unchanged && !stage.checks.is_empty() { "passed" } else { outcome };
    let needs = match stage.needs.is_empty() {
        true => String::new(),
        false => format!("<br><span class=\"soft\">after {}</span>", escape(&stage.needs.join(", "))),
    };
    format!(
        "<tr><td><b>{}</b>{needs}</td><td><code>{}</code></td><td>{}</td><td class=\"number\">{}</td>\
         <td><div class=\"track\"><div class=\"bar {outcome}\" style=\"left:{left:.2}%;width:{width:.2}%\"></div></div></td></tr>\n",
        escape(&stage.name),
        escape(&stage.tool),
        node("span", &format!("badge {outcome}"), word),
        seconds(stage.milliseconds),
    )
}

fn changes(run: &Run) -> String {
    let count: usize = run.stages.iter().map(|stage| stage.changes.len()).sum();
    if count == 0 {
        return "<h2>Changes</h2>\n<p class=\"soft\">None: everything was as the site describes it.</p>\n".to_owned();
    }
    let mut text = format!("<h2>Changes <small>{count}</small></h2>\n<div class=\"card\">\n");
    for change in run.stages.iter().flat_map(|stage| &stage.changes) {
        text += &change_row(change);
    }
    text + "</div>\n"
}

fn change_row(run: &ChangeRun) -> String {
    let (kind, sign) = match run.change.kind {
        Kind::Create => ("create", "+"),
        Kind::Update => ("update", "~"),
        Kind::Delete => ("delete", "−"),
    };
    let text = run.change.to_string();
    let lines: Vec<&str> = text.lines().skip(1).map(str::trim_start).collect();
    let (impact, lines) = match run.change.impact {
        converge::Impact::None => ("", &lines[..]),
        _ => (lines.last().copied().unwrap_or_default(), &lines[..lines.len().saturating_sub(1)]),
    };
    let time = match (run.milliseconds, &run.error) {
        (_, Some(_)) => "failed".to_owned(),
        (Some(time), None) => seconds(time),
        (None, None) => "not applied".to_owned(),
    };
    let detail = if lines.is_empty() { String::new() } else { node("pre", "mono", &lines.join("\n")) };
    let impact = if impact.is_empty() { String::new() } else { node("div", "impact", impact) };
    let error = run.error.as_ref().map(|error| node("div", "error mono", error)).unwrap_or_default();
    // What is new is as the site says; what is altered, removed or failed deserves a look.
    let open = if run.change.kind == Kind::Create && run.error.is_none() { "" } else { " open" };
    format!(
        "<details class=\"change\"{open}><summary><span class=\"sign {kind}\">{sign}</span><code>{}</code><span>{time}</span>\
         </summary>{detail}{impact}{error}</details>\n",
        escape(run.change.address.as_str())
    )
}

fn checks(run: &Run) -> String {
    let all: Vec<&CheckResult> = run.stages.iter().flat_map(|stage| &stage.checks).collect();
    if all.is_empty() {
        return "<h2>Checks</h2>\n<p class=\"soft\">None were made.</p>\n".to_owned();
    }
    let failed: Vec<_> = all.iter().filter(|check| check.failure.is_some()).collect();
    let mut text =
        format!("<h2>Checks <small>{} passed, {} failed</small></h2>\n", all.len() - failed.len(), failed.len());
    for check in failed {
        let why = check.failure.as_deref().unwrap_or_default();
        text += &node("div", "error mono", &format!("{}\n{why}", check.name));
    }
    text += "<div class=\"card\">\n";
    let group = |check: &CheckResult| check.name.split('/').next().unwrap_or_default().to_owned();
    let mut groups: Vec<String> = Vec::new();
    for check in &all {
        if !groups.contains(&group(check)) {
            groups.push(group(check));
        }
    }
    for name in groups {
        let members: Vec<_> = all.iter().filter(|check| group(check) == name).collect();
        let passed = members.iter().filter(|check| check.failure.is_none()).count();
        let sign = if passed == members.len() { tick() } else { cross() };
        let items: String = members.iter().map(|check| check_item(check)).collect();
        text += &format!(
            "<details open><summary>{sign}<b>{}</b><span>{passed} of {}</span></summary><ul class=\"checks\">{items}</ul></details>\n",
            escape(&name),
            members.len()
        );
    }
    text + "</div>\n"
}

fn tick() -> &'static str {
    "<span class=\"tick\">✓</span>"
}

fn cross() -> &'static str {
    "<span class=\"cross\">✗</span>"
}

fn check_item(check: &CheckResult) -> String {
    let sign = if check.failure.is_none() { tick() } else { cross() };
    format!("<li title=\"{}\">{sign}<span>{}</span></li>", escape(&check.seen), escape(&check.name))
}

fn artifacts(run: &Run) -> String {
    let rows: String = run
        .artifacts
        .iter()
        .map(|(name, artifact)| {
            let digest = artifact.sha256.to_string();
            format!(
                "<tr><td><code>{}</code></td><td class=\"number\">{}</td><td class=\"digest mono\"><b>{}</b>{}</td></tr>\n",
                escape(name),
                size(artifact.size),
                &digest[..12],
                &digest[12..]
            )
        })
        .collect();
    format!(
        "<h2>Artifacts <small>{} in generation {}</small></h2>\n<div class=\"card\"><table>\n<tr><th>Name</th><th class=\"number\">Size</th>\
         <th>SHA-256</th></tr>\n{rows}</table></div>\n",
        run.artifacts.len(),
        run.generation
    )
}

fn footer(run: &Run) -> String {
    format!("<footer>Generation digest <span class=\"mono\">{}</span></footer>\n", escape(&run.digest))
}

fn short(digest: &str) -> &str {
    &digest[..12.min(digest.len())]
}

/// Writes a number of bytes for people, in binary units.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{}.{} GiB", bytes >> 30, (bytes >> 20) % 1024 * 10 / 1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        serde_json::from_str(include_str!("sample.json")).unwrap()
    }

    #[test]
    fn what_was_recorded_stands_in_the_report_escaped() {
        let text = html(&run());
        for wanted in
            ["zfs/pve1/tank-hdd/media", "compression: off → lz4", "&lt;b&gt;not html&lt;/b&gt;", "1 passed, 1 failed"]
        {
            assert!(text.contains(wanted), "{wanted}");
        }
        assert!(!text.contains("<b>not html</b>"));
    }

    #[test]
    fn the_file_needs_nothing_from_elsewhere() {
        let text = html(&run());
        for foreign in ["<script", "<link", "<img", "src=", "@import", "url(", "http://", "https://"] {
            assert!(!text.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!([5, 2048, 3 << 20, 3 << 29].map(size), ["5 B", "2 KiB", "3 MiB", "1.5 GiB"]);
    }
}
