//! What `images/*.toml` may say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use store::Digest;
use toml::Spanned;

use crate::{Error, Result};

/// A recipe: one file of the folder `images`, named by the file's stem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageRecipe {
    /// The image's name.
    pub name: String,
    /// What kind of image, and how it is made.
    #[serde(flatten)]
    pub kind: Kind,
}

/// The kinds of images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// A disk image that someone else made.
    Url(UrlRecipe),
    /// A bootable disk made of Debian packages.
    DebianDisk(DiskRecipe),
    /// A container image, or one more layer on another.
    Container(ContainerRecipe),
}

/// A disk image fetched from an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlRecipe {
    #[serde(skip_serializing, rename = "kind")]
    _kind: String,
    /// `http`, `https` or `file` address, or an absolute path.
    pub url: String,
    /// The digest of what comes from there.
    pub sha256: Digest,
    /// Refused for now: how the file is packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unpack: Option<String>,
}

/// A disk that boots by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRecipe {
    #[serde(skip_serializing, rename = "kind")]
    _kind: String,
    /// Debian's release, like `trixie`.
    pub suite: String,
    /// Sections of the archive; `main` alone unless told.
    #[serde(default = "main_only")]
    pub components: Vec<String>,
    /// Packages to install; what they depend on comes too, what they recommend does not.
    pub packages: Vec<String>,
    /// The disk's size.
    pub size: Size,
    /// The host name before cloud-init sets one.
    #[serde(default = "localhost")]
    pub hostname: String,
    /// Files written before the packages are installed, so that they can steer the installation.
    #[serde(default)]
    pub files: BTreeMap<String, FileEntry>,
    /// Shell lines run in the finished system.
    #[serde(default)]
    pub setup: Vec<String>,
    /// Whether the image's clusters are compressed.
    #[serde(default = "yes")]
    pub compress: bool,
    /// More words for the kernel's command line.
    #[serde(default)]
    pub kernel_options: String,
}

/// A container image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerRecipe {
    #[serde(skip_serializing, rename = "kind")]
    _kind: String,
    /// The container recipe whose layers are below; a recipe has this or `suite`.
    #[serde(default)]
    pub base: Option<String>,
    /// Debian's release, where there is no base.
    #[serde(default)]
    pub suite: Option<String>,
    /// Sections of the archive, where there is no base.
    #[serde(default = "main_only")]
    pub components: Vec<String>,
    /// Packages to install.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Files written before the packages are installed.
    #[serde(default)]
    pub files: BTreeMap<String, FileEntry>,
    /// Shell lines run in the finished system.
    #[serde(default)]
    pub setup: Vec<String>,
    /// The program that is always run.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Its arguments, or the command.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Who runs it: name or number, with a group after a colon.
    #[serde(default)]
    pub user: String,
    /// Variables, on top of the base's.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The folder it starts in.
    #[serde(default)]
    pub workdir: String,
    /// Ports like `80/tcp`.
    #[serde(default)]
    pub expose: Vec<String>,
    /// How its health is asked.
    #[serde(default)]
    pub healthcheck: Option<Healthcheck>,
}

/// How a container's health is asked; times in whole seconds, 0 for Docker's own default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Healthcheck {
    /// `["CMD", program, argument…]` or `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    /// Seconds between two checks.
    #[serde(default)]
    pub interval: u64,
    /// Seconds a check may take.
    #[serde(default)]
    pub timeout: u64,
    /// Failures in a row that make it unhealthy.
    #[serde(default)]
    pub retries: u64,
    /// Seconds after the start in which a failure does not count.
    #[serde(default)]
    pub start_period: u64,
}

/// A small file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// All of its text.
    pub text: String,
    /// Its permission bits.
    #[serde(default)]
    pub mode: Mode,
}

/// Permission bits, written as an octal text like "0644".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(pub u32);

impl Default for Mode {
    fn default() -> Self {
        Self(0o644)
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> Self {
        format!("{:04o}", mode.0)
    }
}

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Self(mode)),
            _ => Err(format!("'{text}' is no file mode: octal digits like \"0644\" are wanted")),
        }
    }
}

/// A disk's size in bytes, written with M or G (powers of 1024); a multiple of 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

impl From<Size> for String {
    fn from(size: Size) -> Self {
        format!("{}M", size.0 >> 20)
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let unit = |shift: u32, end: char| {
            let number: u64 = text.strip_suffix(end)?.parse().ok()?;
            number.checked_mul(1 << shift)
        };
        let size = unit(30, 'G').or_else(|| unit(20, 'M'));
        // 64 MiB is less than any Debian; 1 TiB is more than the partition table's sectors need here.
        size.filter(|size| (64 << 20..=1 << 40).contains(size))
            .map(Self)
            .ok_or_else(|| format!("'{text}' is no disk size: a number with M or G from 64M to 1024G is wanted"))
    }
}

#[derive(Deserialize)]
struct Probe {
    kind: Spanned<String>,
}

impl ImageRecipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// [`Error::Io`], and [`Error::Recipe`] with file, line and text.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
            let source = Source { path, text: &good };
            source.error(good.len(), "this is no UTF-8, which TOML is written in".to_owned(), "save the file as UTF-8")
        })?;
        Self::parse(path, &text)
    }

    /// Understands a recipe's text; `path` is for messages, and its stem is the name.
    ///
    /// # Errors
    /// [`Error::Recipe`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let source = Source { path, text };
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
        if !plain_name(&name) {
            return Err(source.error(0, format!("'{name}' can't name an image"), "use a-z, 0-9, '.' and '-'"));
        }
        let probe: Probe = source.read()?;
        let kind = match probe.kind.get_ref().as_str() {
            "url" => Kind::Url(source.read()?),
            "debian-disk" => Kind::DebianDisk(source.read()?),
            "container" => Kind::Container(source.read()?),
            other => {
                let message = format!("'{other}' is no kind of image");
                return Err(source.error(probe.kind.span().start, message, "known are url, debian-disk and container"));
            }
        };
        source.check(&kind)?;
        Ok(Self { name, kind })
    }

    /// Returns the kind's name.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            Kind::Url(_) => "url",
            Kind::DebianDisk(_) => "debian-disk",
            Kind::Container(_) => "container",
        }
    }
}

struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            self.error(at, error.message().replace('\n', "; "), "see the recipes that come with the project")
        })
    }

    fn error(&self, at: usize, message: String, hint: &str) -> Error {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count();
        let text = self.text.lines().nth(line).unwrap_or_default().to_owned();
        Error::Recipe { file: self.path.to_owned(), line: line + 1, text, message, hint: hint.to_owned() }
    }

    /// Finds the line of a value or key for a message; the first line if it is written in another way.
    fn at(&self, needle: &str) -> usize {
        self.text.find(needle).unwrap_or(0)
    }

    fn check(&self, kind: &Kind) -> Result<()> {
        match kind {
            Kind::Url(url) => self.check_url(url),
            Kind::DebianDisk(disk) => {
                self.check_names(&disk.packages)?;
                self.check_names(&disk.components)?;
                self.check_names([&disk.suite, &disk.hostname])?;
                self.check_files(&disk.files)
            }
            Kind::Container(container) => {
                self.check_container(container)?;
                self.check_names(&container.packages)?;
                self.check_files(&container.files)
            }
        }
    }

    fn check_url(&self, url: &UrlRecipe) -> Result<()> {
        if url.unpack.is_some() {
            let message = "packed images are not understood yet".to_owned();
            return Err(self.error(self.at("unpack"), message, "unpack the file and pin the digest of the result"));
        }
        let known = ["http://", "https://", "file:///", "/"];
        if known.iter().any(|start| url.url.starts_with(start)) {
            return Ok(());
        }
        let message = format!("'{}' is no address that can be fetched", url.url);
        Err(self.error(self.at(&url.url), message, "known are http://, https://, file:/// and an absolute path"))
    }

    fn check_container(&self, container: &ContainerRecipe) -> Result<()> {
        match (&container.base, &container.suite) {
            (Some(_), Some(_)) => {
                let message = "a layer on a base takes its suite from it".to_owned();
                Err(self.error(self.at("suite"), message, "leave out suite or base"))
            }
            (None, None) => {
                let message = "neither base nor suite is given".to_owned();
                Err(self.error(0, message, "name another container recipe as base, or a Debian release as suite"))
            }
            (Some(name), None) | (None, Some(name)) => self.check_names([name]),
        }
    }

    fn check_names<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> Result<()> {
        match names.into_iter().find(|name| !plain_name(name)) {
            None => Ok(()),
            Some(bad) => {
                let message = format!("'{bad}' is no name");
                Err(self.error(self.at(&format!("\"{bad}\"")), message, "use a-z, 0-9, '.', '+' and '-'"))
            }
        }
    }

    fn check_files(&self, files: &BTreeMap<String, FileEntry>) -> Result<()> {
        let bad = files.keys().find(|path| {
            !path.starts_with('/')
                || path.ends_with('/')
                || path.split('/').skip(1).any(|p| matches!(p, "" | "." | ".."))
        });
        match bad {
            None => Ok(()),
            Some(bad) => {
                let message = format!("'{bad}' is no path of a file");
                Err(self.error(self.at(bad), message, "write it from /, without '.' and '..'"))
            }
        }
    }
}

/// Returns the recipes of a folder by name.
///
/// # Errors
/// [`Error::Io`] and [`Error::Recipe`].
pub fn load_folder(folder: &Path) -> Result<BTreeMap<String, ImageRecipe>> {
    let mut recipes = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io("list", folder))? {
        let path: PathBuf = entry.map_err(Error::io("list", folder))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let recipe = ImageRecipe::load(&path)?;
            recipes.insert(recipe.name.clone(), recipe);
        }
    }
    Ok(recipes)
}

fn plain_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
}

fn main_only() -> Vec<String> {
    vec!["main".to_owned()]
}

fn localhost() -> String {
    "localhost".to_owned()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests;
