use super::*;
use crate::desired::Desired;
use crate::{fixture, observe};

struct Case {
    desired: Desired,
    _folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let desired = fixture::evaluate(&fixture::site(folder.path(), fixture::PHOTOS, fixture::WEB));
        Self { desired, _folder: folder }
    }

    fn compare(&self, text: &str) -> Result<Vec<Step>, Failure> {
        let (name, guest) = self.desired.guests.get_key_value("vm-a").unwrap();
        compare("lab", name, guest, &observe::parse(text).unwrap())
    }

    /// Writes a plan with digests that this test does not care for replaced.
    fn plan(&self, text: &str) -> String {
        let steps = self.compare(text).unwrap();
        let mut plan = String::new();
        for step in &steps {
            plan += &format!("{}\n", step.change);
        }
        for bundle in self.desired.guests["vm-a"].bundles.values() {
            let stack = bundle.stack.as_str().to_uppercase();
            plan = plan
                .replace(&bundle.digest.short(), &format!("{stack}-BUNDLE"))
                .replace(&Digest::of(bundle.sums()).short(), &format!("{stack}-FILES"))
                .replace(&Digest::of(bundle.unit()).short(), &format!("{stack}-UNIT"));
        }
        for (path, text, _) in RUNTIME {
            let name = path.rsplit('/').next().unwrap();
            plan = plan.replace(&Digest::of(text).short(), &format!("<{name}>"));
        }
        plan
    }

    fn good(&self) -> String {
        fixture::as_wanted(&self.desired)
    }
}

#[test]
fn an_empty_guest_gets_everything_in_order() {
    let case = Case::new();
    let tag = |name| fixture::image(name).tag;
    let golden = include_str!("../../tests/golden/empty-guest.plan");
    let golden = golden.replace("HTTP-TAG", &tag("http")).replace("POSTGRES-TAG", &tag("postgres"));
    assert_eq!(case.plan("docker|up\n"), golden);
    let steps = case.compare("docker|up\n").unwrap();
    let order: Vec<_> = steps.iter().map(|step| (step.wave, step.lane.as_str())).collect();
    assert_eq!(order, [(0, "vm-a"), (0, "vm-a"), (0, "vm-a"), (1, "vm-a/photos"), (2, "vm-a/web")]);
}

#[test]
fn nothing_differs_where_all_is_as_wanted() {
    let case = Case::new();
    assert_eq!(case.plan(&case.good()), "");
}

#[test]
fn each_drift_is_one_change_and_says_what_it_restarts() {
    let case = Case::new();
    let good = case.good();
    let photos = &case.desired.guests["vm-a"].bundles["photos"];
    let plan = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        case.plan(&good.replace(from, to))
    };
    assert_eq!(
        plan("running|Up 1 hour|photos-", "running|Up 1 hour (unhealthy)|photos-"),
        "~ stack/vm-a/photos\n    services: {\"postgres\":\"running\"} → {\"postgres\":\"running\"}\n".replacen(
            "running",
            "unhealthy",
            1
        )
    );
    assert_eq!(
        plan("exited|Exited (0) 1 hour ago", "exited|Exited (3) 1 hour ago"),
        "~ stack/vm-a/web\n    services: {\"first\":\"exited (3)\",\"http\":\"running\"} → \
         {\"first\":\"done\",\"http\":\"running\"}\n"
    );
    let old = Digest::of("old bundle");
    assert_eq!(
        plan(&format!("|{}|", photos.digest), &format!("|{old}|")),
        format!("~ stack/vm-a/photos\n    bundle: {} → PHOTOS-BUNDLE\n    restarts vm-a/photos\n", old.short())
    );
    let sums = Digest::of(photos.sums());
    let altered = |file: &str, restarts: &str| {
        let line = format!("stack|photos|{sums}");
        let wanted = format!("~ stack/vm-a/photos\n    files: altered: {file} → PHOTOS-FILES\n{restarts}");
        assert_eq!(plan(&line, &format!("{line}\naltered|photos|{file}")), wanted);
    };
    altered("start.sh", "    restarts vm-a/photos/postgres\n");
    altered("hearth-stack.service", "");
    altered("compose.yaml", "    restarts vm-a/photos\n");
    altered("compose.hearth.yaml", "    restarts vm-a/photos\n");
    assert_eq!(
        plan(&format!("stack|photos|{sums}"), &format!("stack|photos|{}", Digest::of("another list"))),
        format!(
            "~ stack/vm-a/photos\n    files: {} → PHOTOS-FILES\n    restarts vm-a/photos\n",
            Digest::of("another list").short()
        )
    );
    let unit = Digest::of(photos.unit());
    assert_eq!(
        plan(&unit.to_string(), &Digest::of("edited").to_string()),
        format!("~ stack/vm-a/photos\n    unit file: {} → PHOTOS-UNIT\n", Digest::of("edited").short())
    );
    let loaded = "Id=hearth-stack-photos.service\nunit|ActiveState=active\nunit|UnitFileState=enabled";
    assert_eq!(
        plan(loaded, &format!("{loaded}\nunit|NeedDaemonReload=yes")),
        "~ stack/vm-a/photos\n    unit: active, enabled, changed since it was loaded → active, enabled\n"
    );
    for state in ["disabled", "masked"] {
        assert_eq!(
            plan(loaded, &loaded.replace("enabled", state)),
            format!("~ stack/vm-a/photos\n    unit: active, {state} → active, enabled\n")
        );
    }
    // Gone altogether, and stopped by hand: what still runs is not touched.
    let container = good.lines().find(|line| line.starts_with("container|photos|postgres")).unwrap();
    assert_eq!(
        plan(&format!("{container}\n"), ""),
        "~ stack/vm-a/photos\n    bundle:  → PHOTOS-BUNDLE\n    services: {} → {\"postgres\":\"running\"}\n"
    );
    assert_eq!(
        plan("running|Up 1 hour|photos-", "exited|Exited (137) 2 hours ago|photos-"),
        "~ stack/vm-a/photos\n    services: {\"postgres\":\"exited (137)\"} → {\"postgres\":\"running\"}\n"
    );
    assert_eq!(
        plan(
            "Id=hearth-stack-photos.service\nunit|ActiveState=active",
            "Id=hearth-stack-photos.service\nunit|ActiveState=failed"
        ),
        "~ stack/vm-a/photos\n    unit: failed, enabled → active, enabled\n"
    );
    assert_eq!(
        plan("Id=hearth-stacks.service\nunit|ActiveState=active", "Id=hearth-stacks.service\nunit|ActiveState=failed"),
        "~ stack-runtime/vm-a\n    hearth-stacks.service: failed, enabled → active, enabled\n"
    );
    let image = fixture::image("http");
    assert_eq!(
        plan(&format!("blob|{}|1000", image.config.sha256), "blob|x|1"),
        "~ image/vm-a/http\n    files missing: 1 → 0\n"
    );
    assert_eq!(
        plan(&format!("image|{}|sha256:{}", image.tag, image.config.sha256), "docker|up"),
        format!("+ image/vm-a/http\n    tag: {}\n    to send: 0 files, 0 KiB\n", image.tag)
    );
}

#[test]
fn a_stack_that_the_site_has_no_more_goes_and_another_s_stays() {
    let case = Case::new();
    let text = format!(
        "{}\ncontainer|old|x|lab|old|abc||running|Up|old-x-1\ncontainer|other|x|home|other|abc||running|Up|other-x-1\n\
         container|theirs|x|||||running|Up|theirs-x-1\n",
        case.good()
    );
    assert_eq!(
        case.plan(&text),
        "- stack/vm-a/old\n    stack: deployed → gone\n    restarts vm-a/old (stops; its volumes stay)\n"
    );
}

#[test]
fn what_is_somebody_else_s_is_not_taken_over() {
    let case = Case::new();
    let error = |text: &str| {
        let failure = case.compare(text).unwrap_err();
        assert_eq!(failure.reason, converge::Reason::Refused);
        failure.message
    };
    assert_eq!(
        error("docker|up\ncontainer|photos|db|||||running|Up|photos-db-1\n"),
        "vm-a has a compose project 'photos' already that is not of site 'lab', with photos-db-1"
    );
    assert_eq!(
        error("docker|up\ncontainer|photos|db|home|photos|abc||running|Up|photos-db-1\n"),
        "vm-a has a compose project 'photos' already that is not of site 'lab', with photos-db-1"
    );
    assert_eq!(
        error("docker|up\nfile|/etc/systemd/system/hearth-stack-web.service|abc|# Mine\n"),
        "vm-a has a unit /etc/systemd/system/hearth-stack-web.service already that is not of site 'lab'"
    );
    let failure = case.compare("docker|down\n").unwrap_err();
    assert_eq!(failure.message, "Docker does not run on vm-a");
}
