//! What Hearth reads from a `compose.yaml`; whether the rest is right is for compose to say.

use std::path::Path;

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

/// Something wrong in a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1; 0 where it is the file as a whole.
    pub line: u64,
    /// What is wrong, and the mend.
    pub message: String,
}

/// The services of a compose file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compose {
    /// The services by name, in the file's order.
    pub services: IndexMap<String, Service>,
    /// Secrets that the file itself defines, with their lines.
    pub secrets: IndexMap<String, u64>,
}

/// What Hearth needs to know of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The line where it begins.
    pub line: u64,
    /// Whether a device below `/dev/dri` is passed to it, so that it needs the guest's group `render`.
    pub render: bool,
    /// Whether it does its work and ends, because another service waits for that.
    pub one_shot: bool,
    /// Files and folders that it needs, with their lines: bind mounts and env files.
    pub files: Vec<(u64, String)>,
    /// TCP ports that it publishes on the guest.
    pub ports: Vec<Published>,
    /// Secrets that it reads below `/run/secrets`, with their lines.
    pub secrets: Vec<(u64, String)>,
}

/// A TCP port published on the guest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// The address that it listens on; none for all.
    pub address: Option<String>,
    /// The port on the guest.
    pub port: u16,
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(default)]
    services: IndexMap<String, Option<Spanned<RawService>>>,
    include: Option<Spanned<IgnoredAny>>,
    #[serde(default)]
    configs: IndexMap<String, Option<RawSource>>,
    #[serde(default)]
    secrets: IndexMap<String, Option<RawSource>>,
}

#[derive(Deserialize)]
struct RawSource {
    file: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
struct RawService {
    build: Option<Spanned<IgnoredAny>>,
    extends: Option<Spanned<IgnoredAny>>,
    profiles: Option<Spanned<IgnoredAny>>,
    deploy: Option<RawDeploy>,
    #[serde(default)]
    volumes: Vec<Spanned<RawVolume>>,
    #[serde(default)]
    devices: Vec<RawDevice>,
    #[serde(default)]
    ports: Vec<Spanned<RawPort>>,
    #[serde(default)]
    secrets: Vec<Spanned<RawSecret>>,
    depends_on: Option<RawDepends>,
    env_file: Option<Spanned<RawEnvFile>>,
    #[serde(rename = "command")]
    _command: Option<RawWords>,
    #[serde(rename = "entrypoint")]
    _entrypoint: Option<RawWords>,
    #[serde(rename = "healthcheck")]
    _healthcheck: Option<RawHealth>,
}

/// Read for its shape alone: a line with `: ` in it and no quotes around it is a table, which compose finds out only on
/// the guest.
#[derive(Deserialize)]
struct RawHealth {
    #[serde(rename = "test")]
    _test: Option<RawWords>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawWords {
    One(#[allow(dead_code, reason = "read for its shape")] String),
    Many(#[allow(dead_code, reason = "read for its shape")] Vec<String>),
}

#[derive(Deserialize)]
struct RawDeploy {
    restart_policy: Option<Spanned<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawVolume {
    Short(String),
    Long {
        #[serde(rename = "type")]
        kind: String,
        source: Option<String>,
    },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawSecret {
    Short(String),
    Long { source: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawDevice {
    Short(String),
    Long { source: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawPort {
    Short(String),
    Long {
        published: Option<TextOrNumber>,
        host_ip: Option<String>,
        protocol: Option<String>,
    },
    /// A plain number: only the container's side.
    Other(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Number(u16),
    Text(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawDepends {
    Table(IndexMap<String, RawDependency>),
    /// Names alone, which have no condition.
    List(IgnoredAny),
}

#[derive(Deserialize)]
struct RawDependency {
    condition: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawEnvFile {
    One(String),
    Many(Vec<RawEnvEntry>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawEnvEntry {
    Short(String),
    Long { path: String },
}

/// Reads a compose file's text.
///
/// # Errors
/// All that Hearth can't deploy: what is no YAML, services that are built on the guest, files from elsewhere.
pub fn parse(text: &str) -> Result<Compose, Vec<Problem>> {
    // Compose reads YAML 1.1's octal numbers, and a `yes` that is a text must not become true.
    let options = serde_saphyr::options! { strict_booleans: true, legacy_octal_numbers: true };
    let raw: RawFile = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        vec![Problem { line, message: plain(&error) }]
    })?;
    let mut problems = Vec::new();
    if let Some(include) = &raw.include {
        problems.push(at(include, "`include` takes files from elsewhere: write the services into this file"));
    }
    let mut compose = Compose::default();
    for (name, service) in &raw.services {
        let Some(service) = service else {
            problems.push(Problem { line: 0, message: format!("service '{name}' is empty") });
            continue;
        };
        refusals(name, &service.value, &mut problems);
        compose.services.insert(name.clone(), read(service, &mut problems));
    }
    if compose.services.is_empty() && problems.is_empty() {
        problems.push(Problem { line: 0, message: "there are no services: write them below `services:`".to_owned() });
    }
    mark_one_shots(&raw, &mut compose);
    for (name, source) in &raw.secrets {
        let file = source.as_ref().and_then(|source| source.file.as_ref());
        if let Some(file) = file.filter(|file| !file.value.starts_with('/')) {
            let message = format!(
                "secret '{name}' is the file '{}', which would be stored and deployed as it is: encrypt it \
                 (hearth secrets set {name}) and name it in the stack's `secrets`",
                file.value
            );
            problems.push(at(file, message));
        }
        compose.secrets.insert(name.clone(), file.map_or(0, |file| file.referenced.line()));
    }
    let sources = raw.configs.values().flatten().filter_map(|source| source.file.as_ref());
    let sources: Vec<_> = sources.map(|file| (file.referenced.line(), file.value.clone())).collect();
    // Which services use them is not read, so all do.
    for service in compose.services.values_mut() {
        service.files.extend(sources.iter().cloned());
    }
    if problems.is_empty() { Ok(compose) } else { Err(problems) }
}

/// Returns the parser's message without its picture of the file: the caller shows file and line.
fn plain(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string().lines().next().unwrap_or_default().to_owned();
    let text = text.split(" at line ").next().unwrap_or_default().to_owned();
    if text.contains("did not match any variant of untagged enum RawWords") {
        return "a text or a list of texts is wanted: put quotes around what has ': ' in it".to_owned();
    }
    if let Some(key) = text.strip_prefix("duplicate mapping key: ") {
        return format!("the key '{}' is there twice: keep one", key.split(',').next().unwrap_or_default());
    }
    let mend = match text.as_str() {
        "expected sequence start" => "a list is wanted: write `- ` in front of each item",
        text if text.starts_with("tabs ") => "YAML is indented with blanks, never with tabs",
        text if text.starts_with("alias references") => "name what is to be repeated with `&NAME` above",
        _ => return text,
    };
    format!("{text}: {mend}")
}

fn at<T>(place: &Spanned<T>, message: impl Into<String>) -> Problem {
    Problem { line: place.referenced.line(), message: message.into() }
}

fn refusals(name: &str, service: &RawService, problems: &mut Vec<Problem>) {
    if let Some(build) = &service.build {
        let message = format!(
            "service '{name}' is built where it runs, from what the network gives that day: \
             write an image recipe and name it in the stack's `images`"
        );
        problems.push(at(build, message));
    }
    if let Some(extends) = &service.extends {
        problems.push(at(extends, format!("service '{name}' extends another: write it out, or use a YAML anchor")));
    }
    if let Some(profiles) = &service.profiles {
        problems.push(at(profiles, format!("service '{name}' has profiles, which a stack does not choose from")));
    }
    if let Some(policy) = service.deploy.as_ref().and_then(|deploy| deploy.restart_policy.as_ref()) {
        let message = format!(
            "service '{name}' has a restart policy of its own, by which Docker would start it before its mounts \
             are there: leave it out, the stack's unit restarts what fails"
        );
        problems.push(at(policy, message));
    }
}

fn read(service: &Spanned<RawService>, problems: &mut Vec<Problem>) -> Service {
    let raw = &service.value;
    let dri = |path: &str| path == "/dev/dri" || path.starts_with("/dev/dri/");
    let render = raw.devices.iter().any(|device| match device {
        RawDevice::Short(text) => dri(text.split(':').next().unwrap_or_default()),
        RawDevice::Long { source } => dri(source),
    });
    let mut files: Vec<_> = raw.volumes.iter().filter_map(bind_source).collect();
    if let Some(entry) = &raw.env_file {
        let line = entry.referenced.line();
        match &entry.value {
            RawEnvFile::One(path) => files.push((line, path.clone())),
            RawEnvFile::Many(entries) => files.extend(entries.iter().map(|entry| match entry {
                RawEnvEntry::Short(path) | RawEnvEntry::Long { path } => (line, path.clone()),
            })),
        }
        // An env file's path needs no `./` in front; a bind mount's does, to be told from a volume.
        for (_, path) in files.iter_mut().filter(|(_, path)| !path.starts_with(['.', '/'])) {
            *path = format!("./{path}");
        }
    }
    let mut ports = Vec::new();
    for port in &raw.ports {
        match published(&port.value) {
            Ok(found) => ports.extend(found),
            Err(message) => problems.push(at(port, message)),
        }
    }
    let secret = |used: &Spanned<RawSecret>| match &used.value {
        RawSecret::Short(name) | RawSecret::Long { source: name } => (used.referenced.line(), name.clone()),
    };
    let secrets = raw.secrets.iter().map(secret).collect();
    Service { line: service.referenced.line(), render, one_shot: false, files, ports, secrets }
}

/// Returns what a mount takes from the guest's file system or the stack's folder; none for a named volume.
fn bind_source(volume: &Spanned<RawVolume>) -> Option<(u64, String)> {
    let source = match &volume.value {
        RawVolume::Short(text) => text.split_once(':')?.0,
        RawVolume::Long { kind, source } if kind == "bind" => source.as_deref()?,
        RawVolume::Long { .. } => return None,
    };
    source.starts_with(['.', '/', '~']).then(|| (volume.referenced.line(), source.to_owned()))
}

fn published(port: &RawPort) -> Result<Option<Published>, String> {
    let bad = |text: &str| format!("'{text}' is no published port that can be checked: write ADDRESS:PORT:PORT");
    match port {
        // Only the container's side is given: Docker picks the guest's.
        RawPort::Other(_) => Ok(None),
        RawPort::Short(text) => {
            let Some(tcp) = (match text.rsplit_once('/') {
                Some((ports, "tcp")) => Some(ports),
                Some(_) => None,
                None => Some(text.as_str()),
            }) else {
                return Ok(None);
            };
            let Some((outer, _)) = tcp.rsplit_once(':') else { return Ok(None) };
            let (address, number) = outer.rsplit_once(':').map_or((None, outer), |(a, n)| (Some(a.to_owned()), n));
            let port = number.parse().map_err(|_| bad(text))?;
            Ok(Some(Published { address, port }))
        }
        RawPort::Long { protocol: Some(protocol), .. } if protocol != "tcp" => Ok(None),
        RawPort::Long { published, host_ip, .. } => {
            let port = match published {
                None => return Ok(None),
                Some(TextOrNumber::Number(port)) => *port,
                Some(TextOrNumber::Text(text)) => text.parse().map_err(|_| bad(text))?,
            };
            Ok(Some(Published { address: host_ip.clone(), port }))
        }
    }
}

fn mark_one_shots(raw: &RawFile, compose: &mut Compose) {
    let dependencies = raw.services.values().flatten().filter_map(|service| match &service.value.depends_on {
        Some(RawDepends::Table(table)) => Some(table),
        _ => None,
    });
    for (name, dependency) in dependencies.flatten() {
        if dependency.condition.as_deref() == Some("service_completed_successfully")
            && let Some(service) = compose.services.get_mut(name)
        {
            service.one_shot = true;
        }
    }
}

/// Checks what a service needs from the stack's folder: it must be there, and must not lie outside.
pub fn check_files(compose: &Compose, folder: &Path) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (line, path) in compose.services.values().flat_map(|service| &service.files) {
        let message = if path.starts_with('/') {
            continue;
        } else if path.starts_with('~') {
            format!("'{path}' is in somebody's home, which the guest has not: write a path from / or from the stack")
        } else if path.contains('$') {
            format!("'{path}' has a variable in it, so that it can't be bundled: write the path out")
        } else if path.split('/').any(|part| part == "..") {
            format!("'{path}' lies outside of the stack's folder, so that it would not be deployed: move it inside")
        } else if !folder.join(path).exists() {
            format!("'{path}' is not in the stack's folder: put it there, or mend the path")
        } else {
            continue;
        };
        let problem = Problem { line: *line, message };
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    problems
}

impl Compose {
    /// Returns the services that use one of these files of the stack's folder, by a mount of it or of a folder above.
    pub fn users(&self, files: &[String]) -> Vec<String> {
        let uses = |service: &Service, file: &str| {
            service.files.iter().filter(|(_, path)| !path.starts_with('/')).any(|(_, path)| {
                let path = path.trim_start_matches("./").trim_end_matches('/');
                let below = || file.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
                matches!(path, "" | ".") || path == file || below()
            })
        };
        let found = self.services.iter().filter(|(_, service)| files.iter().any(|file| uses(service, file)));
        found.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
