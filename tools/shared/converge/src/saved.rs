//! Plans in files: what was read and agreed to is what is done, or nothing is.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::change::{Address, Change, Impact, Plan, Step, differences};
use crate::failure::{Failure, Reason};

/// The plans of a whole site, stage by stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SitePlan {
    /// The site.
    pub site: String,
    /// The plans by stage.
    pub stages: BTreeMap<String, Plan>,
}

/// Writes a plan to a file that only its owner can read.
///
/// # Errors
/// Where the file can't be written.
pub fn write(path: &Path, plan: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(plan)?;
    store::files::write_atomic(path, text, 0o600).with_context(|| format!("can't write {}", path.display()))
}

/// Reads a plan from a file.
///
/// # Errors
/// Where the file can't be read, or holds something else.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path)
        .map_err(|error| Failure::config(format!("can't read the plan {}: {error}", path.display())))?;
    let plan = serde_json::from_slice(&text).map_err(|error| {
        Failure::config(format!("{} is not such a plan: {error}", path.display()))
            .hint("a tool's plan is written by `TOOL plan --out FILE`, a whole site's by `hearth plan --out FILE`")
    })?;
    Ok(plan)
}

/// Reads a tool's saved plan, which must be this tool's and this site's.
///
/// # Errors
/// As [`read`]; an error of configuration where it is another tool's or site's plan.
pub fn read_for(tool: &str, site: &str, path: &Path) -> Result<Plan> {
    let make = format!("make one with: {tool} plan --out {}", path.display());
    let text = std::fs::read(path)
        .map_err(|error| Failure::config(format!("can't read the plan {}: {error}", path.display())).hint(&make))?;
    let saved: Plan = serde_json::from_slice(&text)
        .map_err(|error| Failure::config(format!("{} is not a plan: {error}", path.display())).hint(&make))?;
    if saved.tool == tool && saved.site == site {
        return Ok(saved);
    }
    let (path, of, for_site) = (path.display(), &saved.tool, &saved.site);
    let message = format!("{path} is a plan of {of} for site '{for_site}', and this is {tool} for site '{site}'");
    Err(Failure::config(message).hint(make).into())
}

/// Refuses where a tool's saved plan is not what would be planned now, and says what has moved.
///
/// # Errors
/// A refusal with a line for each difference.
pub fn unmoved(path: &Path, saved: &Plan, now: &Plan) -> Result<(), Failure> {
    refuse(path, &moved(&saved.steps, &now.steps))
}

/// Refuses where a whole site's saved plan is not what would be planned now, and says what has moved.
///
/// # Errors
/// As [`unmoved`]; an error of configuration where it is another site's plan.
pub fn site_unmoved(path: &Path, saved: &SitePlan, now: &SitePlan) -> Result<(), Failure> {
    if saved.site != now.site {
        let (path, then, now) = (path.display(), &saved.site, &now.site);
        return Err(Failure::config(format!("{path} is a plan of the site '{then}', and this is '{now}'")));
    }
    let steps = |plan: &SitePlan| -> Vec<Step> { plan.stages.values().flat_map(|plan| plan.steps.clone()).collect() };
    refuse(path, &moved(&steps(saved), &steps(now)))
}

fn refuse(path: &Path, moved: &[String]) -> Result<(), Failure> {
    if moved.is_empty() {
        return Ok(());
    }
    let message = format!("reality has moved since {} was made:\n    {}", path.display(), moved.join("\n    "));
    Err(Failure::refused(message).hint("plan again, read it, apply that"))
}

/// Says what differs between two plans: a line for each thing that was seen or is wanted otherwise.
fn moved(saved: &[Step], now: &[Step]) -> Vec<String> {
    let find = |steps: &[Step], address: &Address| steps.iter().find(|step| step.change.address == *address).cloned();
    let mut lines = Vec::new();
    for then in saved {
        let address = &then.change.address;
        match find(now, address) {
            None => lines.push(format!("{address} was to be changed, and needs no change now")),
            Some(now) if *then != now => lines.extend(compare(&then.change, &now.change)),
            Some(_) => {}
        }
    }
    for step in now.iter().filter(|step| find(saved, &step.change.address).is_none()) {
        let change = step.change.to_string().replace('\n', "\n    ");
        lines.push(format!("{} was as desired, and needs a change now:\n    {change}", step.change.address));
    }
    lines
}

fn compare(then: &Change, now: &Change) -> Vec<String> {
    let address = &then.address;
    let shown = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "nothing".to_owned());
    let key = |key: &str| if key.is_empty() { String::new() } else { format!("{key} ") };
    let mut lines = Vec::new();
    for (name, old, new) in differences(&then.before, &now.before) {
        lines.push(format!("{address}: {}was {}, and is {} now", key(&name), shown(old), shown(new)));
    }
    for (name, old, new) in differences(&then.after, &now.after) {
        lines.push(format!("{address}: {}was to be {}, and is to be {} now", key(&name), shown(old), shown(new)));
    }
    if then.impact != now.impact {
        lines.push(format!("{address}: the change had {}, and has {} now", impact(&then.impact), impact(&now.impact)));
    }
    if lines.is_empty() {
        lines.push(format!("{address}: the same change would be made in another way now"));
    }
    lines
}

fn impact(impact: &Impact) -> String {
    match impact {
        Impact::None => "no impact".to_owned(),
        impact => format!("the impact '{impact}'"),
    }
}

/// Refuses a consent that no change asks for: most likely it is a slip, and the change it was meant for would be refused.
///
/// # Errors
/// A usage error that names what is near.
pub fn known<'p>(allow: &[String], plans: impl IntoIterator<Item = &'p Plan>) -> Result<(), Failure> {
    let steps: Vec<&Step> = plans.into_iter().flat_map(|plan| &plan.steps).collect();
    let addresses: Vec<&str> = steps.iter().map(|step| step.change.address.as_str()).collect();
    let Some(slip) = allow.iter().find(|allow| !addresses.contains(&allow.as_str())) else { return Ok(()) };
    let loses = |step: &&&Step| matches!(step.change.impact, Impact::DataLoss(_));
    let losing: Vec<&str> = steps.iter().filter(loses).map(|step| step.change.address.as_str()).collect();
    let near = site::nearest(slip, addresses.iter().copied()).map(|near| format!("did you mean {near}? "));
    let rest = match losing.as_slice() {
        [] => "no change loses data, so that nothing needs to be allowed".to_owned(),
        some => format!("these changes lose data: {}", some.join(", ")),
    };
    let failure = Failure::new(Reason::Usage, format!("--allow {slip}: no change has this address"));
    Err(failure.hint(near.unwrap_or_default() + &rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use serde_json::{Value, json};

    fn step(address: &str, before: Value, after: Value, impact: Impact) -> Step {
        let change = Change { address: Address::new([address]), kind: Kind::Update, before, after, impact };
        Step { change, wave: 0, lane: String::new(), action: Value::Null }
    }

    fn plan(steps: Vec<Step>) -> Plan {
        Plan { tool: "vm-build".into(), site: "lab".into(), steps }
    }

    fn said(failure: Failure) -> String {
        crate::describe(&failure.into())
    }

    #[test]
    fn a_moved_reality_is_told_by_address_and_value() {
        let reboots = || Impact::Reboot(vec!["a".into()]);
        let saved = plan(vec![
            step("vm/a", json!({"memory": "1G"}), json!({"memory": "2G"}), Impact::None),
            step("vm/b", json!({"memory": "1G"}), json!({"memory": "2G"}), reboots()),
            step("vm/c", json!(null), json!({"memory": "2G"}), Impact::None),
        ]);
        let now = plan(vec![
            step("vm/a", json!({"memory": "512M"}), json!({"memory": "4G"}), reboots()),
            step("vm/b", json!({"memory": "1G"}), json!({"memory": "2G"}), reboots()),
            step("vm/d", json!({"power": "stopped"}), json!({"power": "running"}), Impact::None),
        ]);
        let file = Path::new("p.json");
        assert_eq!(
            said(unmoved(file, &saved, &now).unwrap_err()),
            "error: reality has moved since p.json was made:\n    vm/a: memory was 1G, and is 512M now\n    \
             vm/a: memory was to be 2G, and is to be 4G now\n    \
             vm/a: the change had no impact, and has the impact 'reboots a' now\n    \
             vm/c was to be changed, and needs no change now\n    vm/d was as desired, and needs a change now:\n    \
             ~ vm/d\n        power: stopped → running\n  hint: plan again, read it, apply that"
        );
        assert!(unmoved(file, &saved, &saved).is_ok());
    }

    #[test]
    fn a_plan_of_another_tool_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.json");
        write(&file, &Plan { tool: "zfs-init".into(), ..plan(vec![]) }).unwrap();
        let place = file.display();
        let error = read_for("vm-build", "lab", &file).unwrap_err().downcast::<Failure>().unwrap();
        assert_eq!(
            said(error),
            format!(
                "error: {place} is a plan of zfs-init for site 'lab', and this is vm-build for site 'lab'\n  \
                 hint: make one with: vm-build plan --out {place}"
            )
        );
    }

    #[test]
    fn a_whole_sites_plan_is_compared_over_its_stages() {
        let site = |before: &str| SitePlan {
            site: "lab".into(),
            stages: [("guests".to_owned(), plan(vec![step("vm/a", json!(before), json!("x"), Impact::None)]))].into(),
        };
        let file = Path::new("p.json");
        assert!(site_unmoved(file, &site("a"), &site("a")).is_ok());
        let text = said(site_unmoved(file, &site("a"), &site("b")).unwrap_err());
        assert!(text.contains("\n    vm/a: was a, and is b now\n"), "{text}");
    }

    #[test]
    fn a_consent_that_nothing_asks_for_is_a_slip() {
        let loses = step("vm/pve1/web", json!("a"), json!("b"), Impact::DataLoss(vec!["web".into()]));
        let plan = plan(vec![loses]);
        assert!(known(&["vm/pve1/web".into()], [&plan]).is_ok());
        let failure = known(&["vm/pve1/wbe".into()], [&plan]).unwrap_err();
        assert_eq!(failure.reason, Reason::Usage);
        assert_eq!(
            said(failure),
            "error: --allow vm/pve1/wbe: no change has this address\n  \
             hint: did you mean vm/pve1/web? these changes lose data: vm/pve1/web"
        );
        let nothing = Plan { steps: Vec::new(), ..plan };
        assert_eq!(
            said(known(&["x".into()], [&nothing]).unwrap_err()),
            "error: --allow x: no change has this address\n  \
             hint: no change loses data, so that nothing needs to be allowed"
        );
    }
}
