//! A guest that is a folder: the scripts run here against a pretended `docker` and `systemctl`, and can be killed before
//! each of their commands.

use std::fs;
use std::path::{Path, PathBuf};

use remote::{Command, Output};
use store::Digest;

/// The stack.
pub const NAME: &str = "web";

/// Containers are a file of lines as `docker ps` gives them, and `runs`, the bundle that they are of. What a bundle's
/// `compose.yaml` says decides how they do.
const DOCKER: &str = r#"#!/bin/sh
echo "$*" >>W/asked
case "$1 ${2-}" in
'image inspect') cat W/image 2>/dev/null || exit 1 ;;
'load --quiet') tar --extract --to-stdout ./manifest.json >W/image ;;
ps*) case "$*" in *stack=web*) cat W/containers 2>/dev/null ;; *) cat W/needed 2>/dev/null ;; esac || true ;;
logs*) echo 'the last words' ;;
'compose --project-name')
    folder=
    while [ $# -gt 0 ]; do
        case $1 in
        --project-directory) folder=$2; shift ;;
        config) if grep -q broken "$folder/compose.yaml"; then echo 'services.http must be a mapping' >&2; exit 15; fi ;;
        up)
            basename "$folder" >W/runs
            state='running|Up 3 seconds (healthy)'
            case $(cat "$folder/compose.yaml") in
            *ends*) state='exited|Exited (1) 1 second ago' ;;
            *sick*) state='running|Up 3 seconds (unhealthy)' ;;
            *full*) echo 'no space left on device' >&2; exit 1 ;;
            esac
            echo "http||$state" >W/containers
            ;;
        down) rm -f W/containers W/runs ;;
        esac
        shift
    done
    ;;
esac
"#;

const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >>W/told
case "$*" in
*ActiveState*) for unit in "$@"; do :; done; cat "W/state-$unit" 2>/dev/null || echo inactive ;;
is-system-running) echo running ;;
*is-enabled*) [ -e W/enabled ] ;;
*is-active*) [ -e W/active ] ;;
*reenable*) touch W/enabled ;;
esac
"#;

/// Counts commands in a file, for subshells count too, and kills all that was started before the wanted one.
const KILLER: &str = r#"set -T
trap 'printf x >>W/count; read -r n_ <W/count || :; [ ${#n_} -lt KILL ] || kill -9 0' DEBUG
"#;

/// How a script ended that was killed.
pub const KILLED: i32 = 137;

/// One guest.
pub struct World {
    folder: tempfile::TempDir,
}

impl World {
    /// A guest with Docker and one share, and no stack.
    pub fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        world.write("mountinfo", "1 2 0:3 / / rw - ext4 x rw\n4 1 0:5 / /mnt/media rw - nfs4 s rw\n", 0o644);
        world.write("image", "sha256:1\n", 0o644);
        world.write("fake/docker", &world.here(DOCKER), 0o755);
        world.write("fake/systemctl", &world.here(SYSTEMCTL), 0o755);
        world.write("fake/sleep", "#!/bin/sh\nexec /bin/sleep 0.2\n", 0o755);
        world.write("units/hearth-trial@.service", "", 0o644);
        world.write("bin/stack", &world.script("stack"), 0o755);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) {
        store::files::write_atomic(&self.path(name), text, mode).unwrap();
    }

    /// Reads a file; empty where there is none.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default().trim().to_owned()
    }

    fn here(&self, text: &str) -> String {
        text.replace("W/", &format!("{}/", self.folder.path().display()))
    }

    /// The same text with another root can be run by anybody.
    fn script(&self, name: &str) -> String {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/guest/{name}.sh"));
        let text = fs::read_to_string(path).unwrap();
        let places = [
            ("/var/lib/hearth", ""),
            ("/var/lib/docker", "docker"),
            ("/run/hearth", "run"),
            ("/etc/systemd/system", "units"),
            ("/proc/self/mountinfo", "mountinfo"),
        ];
        places
            .iter()
            .fold(text, |text, (from, to)| text.replace(from, self.path(to).to_str().unwrap().trim_end_matches('/')))
    }

    fn run(&self, text: &str, arguments: &[&str], input: Vec<u8>, kill: u32) -> Output {
        let killer = if kill == 0 { String::new() } else { self.here(KILLER).replace("KILL", &kill.to_string()) };
        self.write("count", "", 0o644);
        self.write("now.sh", &(killer + text), 0o644);
        let path = format!("{}:/usr/bin:/bin", self.path("fake").display());
        let shell = if kill == 0 { ["sh", "-eu"].as_slice() } else { &["bash", "--posix", "-eu"] };
        let command = Command::new(shell[0]).args(&shell[1..]).arg(self.path("now.sh")).args(arguments);
        command.env("PATH", path).stdin(input).output().unwrap()
    }

    /// Runs `stack`, killed before that command, or never for 0.
    pub fn stack(&self, verb: &str, kill: u32) -> Output {
        self.run(&self.script("stack"), &[verb, NAME, "1"], Vec::new(), kill)
    }

    /// Sends a bundle whose compose file says this; returns its name beside the end.
    pub fn deploy(&self, compose: &str, kill: u32) -> (String, Output) {
        let short = bundle(compose);
        let out = tempfile::tempdir().unwrap();
        let unit = "[Unit]\nRequires=docker.service hearth-stack-photos.service\nRequiresMountsFor=/mnt/media\n[Service]\n\
                    ExecStart=/x up web 1\n";
        let files =
            [("compose.hearth.yaml", ""), ("compose.yaml", compose), ("conf/a", "a"), ("hearth-stack.service", unit)];
        let mut sums = String::new();
        for (name, text) in files {
            store::files::write_atomic(&out.path().join(name), text, 0o644).unwrap();
            sums += &format!("{}  {name}\n", Digest::of(text));
        }
        store::files::write_atomic(&out.path().join("SHA256SUMS"), &sums, 0o644).unwrap();
        let tar = Command::new("tar").args(["--create", "--file=-", "."]).folder(out.path()).run().unwrap().stdout;
        let head = format!("NAME={NAME} DIGEST={short} SUMS={} TAGS='hearth/http:1' AGAIN='http'\n", Digest::of(&sums));
        let output = self.run(&(head + &self.script("deploy")), &[], tar, kill);
        (short, output)
    }

    /// Runs `load.sh` with one layer that is missing.
    pub fn load(&self, kill: u32) -> Output {
        let (layer, config) = (Digest::of("layer"), Digest::of("config"));
        let out = tempfile::tempdir().unwrap();
        for (digest, text) in [(layer, "layer"), (config, "config")] {
            store::files::write_atomic(&out.path().join(digest.to_string()), text, 0o644).unwrap();
        }
        let tar = Command::new("tar").args(["--create", "--file=-", "."]).folder(out.path()).run().unwrap().stdout;
        let head = format!("TAG=hearth/http:2 ID=sha256:2 CONFIG={config} LINKS={layer} MANIFEST=sha256:2\n");
        self.run(&(head + &self.script("load")), &[], tar, kill)
    }

    /// What systemd does with the trial's unit: whatever ends its program, the second one runs.
    pub fn trial(&self, kill: u32) -> Output {
        let output = self.stack("try", kill);
        let settled = self.stack("settle", 0);
        assert_eq!(settled.status, 0, "{}", said(&settled));
        output
    }

    /// The power fails and comes back: no container runs, nothing of `/run` is left, and the unit starts the stack.
    pub fn reboot(&self) -> Output {
        let _ = fs::remove_dir_all(self.path("run"));
        if self.path("containers").exists() {
            self.write("containers", "http||exited|Exited (137) 1 minute ago\n", 0o644);
        }
        self.stack("up", 0)
    }

    /// Asserts that this bundle runs and is well, that it is what boots, and that nothing is left but it and another.
    pub fn runs(&self, bundle: &str, at: &str) {
        assert_eq!(self.read("runs"), bundle, "{at}");
        assert_eq!(self.read("containers"), "http||running|Up 3 seconds (healthy)", "{at}");
        let current = fs::read_link(self.path("stacks/web/current")).unwrap();
        assert_eq!(current, Path::new("bundles").join(bundle), "{at}");
        let previous = fs::read_link(self.path("stacks/web/previous")).ok();
        let mut left = names(&self.path("stacks/web/bundles"));
        left.retain(|name| name != bundle && previous.as_deref() != Some(&Path::new("bundles").join(name)));
        assert_eq!(left, [""; 0], "{at}");
        let mut left = names(&self.path("stacks/web"));
        // `previous` may be the current one itself, where the moment between both links was hit.
        left.retain(|name| !["bundles", "current", "previous"].contains(&name.as_str()));
        assert_eq!(left, [""; 0], "{at}");
    }

    /// Keeps a copy of all of it.
    pub fn save(&self) {
        let copy = self.folder.path().with_extension("saved");
        Command::new("cp").args(["-a", "-T"]).arg(self.folder.path()).arg(copy).run().unwrap();
    }

    /// Makes it as it was when it was saved; the next call does so again.
    pub fn restore(&self) {
        fs::remove_dir_all(self.folder.path()).unwrap();
        let copy = self.folder.path().with_extension("saved");
        Command::new("cp").args(["-a", "-T"]).arg(copy).arg(self.folder.path()).run().unwrap();
    }

    /// Asserts that this bundle runs untouched and is what boots, whatever else lies there.
    pub fn runs_still(&self, bundle: &str) {
        assert_eq!(self.read("runs"), bundle);
        assert_eq!(fs::read_link(self.path("stacks/web/current")).unwrap(), Path::new("bundles").join(bundle));
    }

    /// A guest on which this bundle is healthy.
    pub fn with(compose: &str) -> (Self, String) {
        let world = Self::new();
        world.write("needed", "db||running|Up\n", 0o644);
        let (bundle, output) = world.deploy(compose, 0);
        assert!(output.text().starts_with("trial "), "{}", said(&output));
        let output = world.trial(0);
        assert_eq!(output.status, 0, "{}", said(&output));
        world.runs(&bundle, "the first");
        (world, bundle)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.folder.path().with_extension("saved"));
    }
}

/// The name of the bundle with this compose file.
pub fn bundle(compose: &str) -> String {
    Digest::of(compose).short()
}

/// All that a script printed.
pub fn said(output: &Output) -> String {
    output.text() + &String::from_utf8_lossy(&output.stderr)
}

/// The names in a folder.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}
