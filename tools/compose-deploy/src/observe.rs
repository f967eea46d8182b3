//! What is on a guest.

use std::collections::BTreeMap;

use store::Digest;

/// The script that asks a guest everything at once.
pub const SCRIPT: &str = include_str!("guest/observe.sh");

/// What is on a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Sizes of the store's files by name.
    pub blobs: BTreeMap<String, u64>,
    /// Programs and units of Hearth's, by path.
    pub files: BTreeMap<String, File>,
    /// Units of Hearth's, by name.
    pub units: BTreeMap<String, UnitState>,
    /// Deployed bundles by stack.
    pub stacks: BTreeMap<String, Deployed>,
    /// Secrets by stack and by the name that its services see them by.
    pub secrets: BTreeMap<String, BTreeMap<String, Secret>>,
    /// Whether Docker is there.
    pub docker: Docker,
    /// Ids of loaded images, by tag.
    pub images: BTreeMap<String, String>,
    /// Containers of all compose projects.
    pub containers: Vec<Container>,
}

/// Whether Docker is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Docker {
    /// It is not installed.
    #[default]
    None,
    /// It does not run.
    Down,
    /// It runs.
    Up,
}

/// A program or a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// The digest of its text.
    pub sha256: String,
    /// Its first line.
    pub first_line: String,
}

/// A unit's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitState {
    /// As systemd calls it: `active`, `failed`, …
    pub active: String,
    /// As systemd calls it: `enabled`, `disabled`, …
    pub enabled: String,
    /// Whether its file was changed since systemd read it.
    pub stale: bool,
}

/// A bundle on a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployed {
    /// The digest of its list of files.
    pub sums: String,
    /// The files that are not as the list says.
    pub altered: Vec<String>,
}

/// A secret on a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// What it was made from ([`crate::secrets::StackSecret::mark`]).
    pub mark: String,
    /// `ok`, or what is wrong with it: `missing`, `altered`.
    pub state: String,
}

/// A container of a compose project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// The compose project.
    pub project: String,
    /// The compose service.
    pub service: String,
    /// Hearth's labels; empty on other people's.
    pub labels: Labels,
    /// What it does.
    pub health: Health,
    /// Its name.
    pub name: String,
}

/// The labels that Hearth puts on containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// The site.
    pub site: String,
    /// The stack.
    pub stack: String,
    /// The bundle's digest.
    pub bundle: String,
    /// The secrets that it was made with.
    pub secrets: String,
}

/// What a container does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It runs, and is healthy or has no health check.
    Good,
    /// It did its work and ended, as it should.
    Done,
    /// It runs, and is not healthy yet.
    Starting,
    /// It runs, and its health check fails.
    Unhealthy,
    /// Anything else, as Docker says it.
    Other(String),
    /// Nothing is known.
    #[default]
    Unknown,
}

impl Health {
    /// Understands Docker's words for a container's state and status; `one_shot` is its label.
    pub fn of(one_shot: bool, state: &str, status: &str) -> Self {
        match state {
            "running" if status.contains("(health: starting)") => Self::Starting,
            "running" if status.contains("(unhealthy)") => Self::Unhealthy,
            "running" => Self::Good,
            "exited" if one_shot && status.starts_with("Exited (0)") => Self::Done,
            // The time since then would differ at each look.
            "exited" => Self::Other(status.split_inclusive(')').next().unwrap_or(status).to_lowercase()),
            other => Self::Other(other.to_owned()),
        }
    }

    /// Returns the state for people.
    pub fn text(&self) -> &str {
        match self {
            Self::Good => "running",
            Self::Done => "done",
            Self::Starting => "starting",
            Self::Unhealthy => "unhealthy",
            Self::Other(text) => text,
            Self::Unknown => "unknown",
        }
    }
}

/// Understands what [`SCRIPT`] printed.
///
/// # Errors
/// The line that is not understood.
pub fn parse(text: &str) -> Result<Observed, String> {
    let mut observed = Observed::default();
    let mut unit = (String::new(), UnitState::default());
    for line in text.lines() {
        let bad = || format!("'{line}' is not understood");
        let (kind, rest) = line.split_once('|').ok_or_else(bad)?;
        let fields: Vec<&str> = rest.split('|').collect();
        match (kind, fields.as_slice()) {
            ("blob", [name, size]) => {
                // What is not named by a digest is a transfer that did not end.
                if name.parse::<Digest>().is_ok() {
                    observed.blobs.insert((*name).to_owned(), size.parse().map_err(|_| bad())?);
                }
            }
            ("file", [path, sha256, first @ ..]) => {
                let file = File { sha256: (*sha256).to_owned(), first_line: first.join("|") };
                observed.files.insert((*path).to_owned(), file);
            }
            ("unit", [""]) => unit = Default::default(),
            ("unit", [property]) => {
                let (key, value) = property.split_once('=').ok_or_else(bad)?;
                match key {
                    "Id" => unit.0 = value.to_owned(),
                    "ActiveState" => unit.1.active = value.to_owned(),
                    "UnitFileState" => unit.1.enabled = value.to_owned(),
                    "NeedDaemonReload" => unit.1.stale = value == "yes",
                    _ => return Err(bad()),
                }
                if !unit.0.is_empty() {
                    observed.units.insert(unit.0.clone(), unit.1.clone());
                }
            }
            ("stack", [name, sums]) => {
                let deployed = Deployed { sums: (*sums).to_owned(), altered: Vec::new() };
                observed.stacks.insert((*name).to_owned(), deployed);
            }
            ("secret", [stack, name, mark, state]) => {
                let secret = Secret { mark: (*mark).to_owned(), state: (*state).to_owned() };
                observed.secrets.entry((*stack).to_owned()).or_default().insert((*name).to_owned(), secret);
            }
            ("altered", [name, path @ ..]) => {
                observed.stacks.get_mut(*name).ok_or_else(bad)?.altered.push(path.join("|"));
            }
            ("docker", ["none"]) => observed.docker = Docker::None,
            ("docker", ["down"]) => observed.docker = Docker::Down,
            ("docker", ["up"]) => observed.docker = Docker::Up,
            ("image", [tag, id]) => {
                observed.images.insert((*tag).to_owned(), (*id).to_owned());
            }
            ("container", [project, service, site, stack, bundle, one_shot, state, status, name, secrets @ ..]) => {
                let own = |text: &&str| (*text).to_owned();
                observed.containers.push(Container {
                    project: own(project),
                    service: own(service),
                    labels: Labels {
                        site: own(site),
                        stack: own(stack),
                        bundle: own(bundle),
                        secrets: secrets.join("|"),
                    },
                    health: Health::of(!one_shot.is_empty(), state, status),
                    name: own(name),
                });
            }
            _ => return Err(bad()),
        }
    }
    Ok(observed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_prints_is_understood() {
        let digest = Digest::of("x");
        let text = format!(
            "blob|{digest}|12\nblob|.incoming.1|3\nfile|/etc/systemd/system/hearth-stack-a.service|abc|# Made | by\n\
             unit|Id=hearth-stacks.service\nunit|ActiveState=active\nunit|UnitFileState=enabled\nunit|NeedDaemonReload=yes\nunit|\n\
             unit|Id=hearth-stack-a.service\nunit|ActiveState=failed\nunit|UnitFileState=\n\
              stack|a|def\naltered|a|conf/x\nsecret|a|k|m|ok\ndocker|up\nimage|hearth/http:123|sha256:456\n\
              container|a|http|lab|a|{digest}||running|Up 2 minutes (healthy)|a-http-1|k=m\n"
        );
        let observed = parse(&text).unwrap();
        assert_eq!(observed.blobs, [(digest.to_string(), 12)].into());
        assert_eq!(observed.files["/etc/systemd/system/hearth-stack-a.service"].first_line, "# Made | by");
        assert_eq!(observed.units["hearth-stacks.service"].active, "active");
        assert_eq!(observed.units["hearth-stack-a.service"].active, "failed");
        assert_eq!(observed.units["hearth-stack-a.service"].enabled, "");
        assert_eq!(observed.secrets["a"]["k"], Secret { mark: "m".to_owned(), state: "ok".to_owned() });
        assert_eq!(observed.containers[0].labels.secrets, "k=m");
        assert_eq!(observed.stacks["a"].altered, ["conf/x"]);
        assert!(observed.units["hearth-stacks.service"].stale && !observed.units["hearth-stack-a.service"].stale);
        assert_eq!(observed.docker, Docker::Up);
        assert_eq!(observed.images["hearth/http:123"], "sha256:456");
        assert_eq!(observed.containers[0].health, Health::Good);
        assert_eq!(observed.containers[0].labels.bundle, digest.to_string());
        assert_eq!(parse("what is this").unwrap_err(), "'what is this' is not understood");
        assert_eq!(parse("container|a").unwrap_err(), "'container|a' is not understood");
    }

    #[test]
    fn docker_s_words_are_understood() {
        let health = |state, status| Health::of(false, state, status);
        assert_eq!(health("running", "Up 3 seconds"), Health::Good);
        assert_eq!(health("running", "Up 3 seconds (health: starting)"), Health::Starting);
        assert_eq!(health("running", "Up 3 seconds (unhealthy)"), Health::Unhealthy);
        assert_eq!(health("exited", "Exited (0) 2 days ago"), Health::Other("exited (0)".to_owned()));
        assert_eq!(Health::of(true, "exited", "Exited (0) 2 days ago"), Health::Done);
        assert_eq!(Health::of(true, "exited", "Exited (1) 2 days ago"), Health::Other("exited (1)".to_owned()));
        assert_eq!(health("created", "Created"), Health::Other("created".to_owned()));
    }
}
