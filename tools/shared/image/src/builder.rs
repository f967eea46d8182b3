//! Builds images, or finds them built.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use store::{Artifact, Digest, Outputs, Recipe, Store};

use crate::apt::Mirror;
use crate::container::{self, ContainerImage, Layer};
use crate::disk::{self, DiskImage, Finished};
use crate::fetch::Fetcher;
use crate::lock::{Lock, Package, Set};
use crate::plan::Recipes;
use crate::recipe::{FileEntry, ImageRecipe, Kind};
use crate::sandbox::{OtherClock, Sandbox, make_open};
use crate::scratch::Scratch;
use crate::toolroot::{self, ToolRoot};
use crate::{Error, Result};

/// Raised whenever the same disk recipe would come out another way.
const DISK_BUILDER: u32 = 4;
/// The same for containers.
const CONTAINER_BUILDER: u32 = 3;

/// Where everything is.
pub struct Settings<'a> {
    /// The store.
    pub store: Store,
    /// The folder of recipes.
    pub images_dir: PathBuf,
    /// The lock file.
    pub lock_path: PathBuf,
    /// A folder for what a build needs while it runs; on the store's file system, packages are linked and not copied.
    pub scratch_dir: PathBuf,
    /// Told what is being done, in short lines.
    pub progress: &'a (dyn Fn(&str) + Sync),
}

/// Builds the images of a folder of recipes.
pub struct Builder<'a> {
    pub(crate) settings: Settings<'a>,
    pub(crate) recipes: Recipes,
    lock: Lock,
    /// Unpacked for the first image that is built, for all of them.
    tools: Mutex<Option<Arc<ToolRoot>>>,
    clock: Option<OtherClock>,
}

impl<'a> Builder<'a> {
    /// Reads recipes and lock file.
    ///
    /// # Errors
    /// [`Error::Recipe`], [`Error::Lock`], [`Error::Io`].
    pub fn new(settings: Settings<'a>) -> Result<Self> {
        let recipes = Recipes::load(&settings.images_dir)?;
        let lock = Lock::load(&settings.lock_path)?;
        Ok(Self { settings, recipes, lock, tools: Mutex::default(), clock: None })
    }

    /// Shows another clock to the programs that build. It is for tests, which prove with it that no clock gets into an
    /// image. `library` is the file `libfaketime.so.1`, `shift` its notation of a time, like `+400d`.
    #[must_use]
    pub fn with_other_clock(self, library: &Path, shift: &str) -> Self {
        Self { clock: Some(OtherClock { library: library.to_owned(), shift: shift.to_owned() }), ..self }
    }

    pub(crate) fn recipes(&self) -> &Recipes {
        &self.recipes
    }

    pub(crate) fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Returns the names of all images.
    pub fn names(&self) -> Vec<String> {
        self.recipes.names().map(str::to_owned).collect()
    }

    /// Returns an image's recipe.
    ///
    /// # Errors
    /// [`Error::NoRecipe`].
    pub fn recipe(&self, name: &str) -> Result<&ImageRecipe> {
        self.recipes.get(name)
    }

    /// Tells whether an image is in the store or its cache, built of what recipe and lock file say now.
    ///
    /// # Errors
    /// [`Error::NoRecipe`], [`Error::NotLocked`], [`Error::Store`].
    pub fn is_cached(&self, name: &str) -> Result<bool> {
        match &self.recipe(name)?.kind {
            Kind::Url(url) => Ok(self.settings.store.contains(&url.sha256)),
            Kind::DebianDisk(_) => Ok(self.settings.store.outputs(&self.disk_key(name)?)?.is_some()),
            Kind::Container(_) => Ok(self.cached_container(name)?.is_some()),
        }
    }

    /// Returns a disk image, made now if it is not there.
    ///
    /// # Errors
    /// [`Error::Kind`] for a container; whatever fetching and building fail with.
    pub fn disk(&self, name: &str) -> Result<DiskImage> {
        let store = &self.settings.store;
        if let Kind::Url(_) = self.recipe(name)?.kind {
            let url = self.recipes.url(name)?;
            let file = Fetcher::new(store).url(&url.url, &url.sha256)?;
            return DiskImage::look(name, store, file);
        }
        self.recipes.disk(name)?;
        let key = self.disk_key(name)?;
        if let Some(file) = self.cached_disk(&key)? {
            return DiskImage::look(name, store, file);
        }
        let scratch = Scratch::claim(&self.settings.scratch_dir, name)?;
        // Another run may have made it while this one waited for its turn.
        if let Some(file) = self.cached_disk(&key)? {
            return DiskImage::look(name, store, file);
        }
        let Finished { disk, files } = self.build_disk(&scratch, name, &key.digest())?;
        store.record(&key, &Outputs::from([("disk".to_owned(), disk), ("files".to_owned(), files)]))?;
        DiskImage::look(name, store, disk)
    }

    /// Returns a container image, made now if it is not there, and so for its bases.
    ///
    /// # Errors
    /// [`Error::Kind`] for a disk; whatever fetching and building fail with.
    pub fn container(&self, name: &str) -> Result<ContainerImage> {
        if let Some(image) = self.cached_container(name)? {
            return Ok(image);
        }
        let base = match &self.recipes.container(name)?.base {
            Some(base) => Some(self.container(base)?),
            None => None,
        };
        let key = self.container_key(name, base.as_ref())?;
        let scratch = Scratch::claim(&self.settings.scratch_dir, name)?;
        if let Some(image) = self.cached_container(name)? {
            return Ok(image);
        }
        let image = self.build_container(&scratch, name, base.as_ref())?;
        let store = &self.settings.store;
        let json = serde_json::json!(image).to_string();
        let mut outputs = Outputs::from([
            ("image.json".to_owned(), store.put_bytes(json.as_bytes())?),
            ("config".to_owned(), image.config),
        ]);
        for (number, layer) in image.layers.iter().enumerate() {
            outputs.insert(format!("layer.{number:02}"), layer.blob);
        }
        store.record(&key, &outputs)?;
        Ok(image)
    }

    fn cached_disk(&self, key: &Recipe) -> Result<Option<Artifact>> {
        Ok(self.settings.store.outputs(key)?.and_then(|outputs| outputs.get("disk").copied()))
    }

    fn cached_container(&self, name: &str) -> Result<Option<ContainerImage>> {
        let base = match &self.recipes.container(name)?.base {
            Some(base) => match self.cached_container(base)? {
                Some(base) => Some(base),
                None => return Ok(None),
            },
            None => None,
        };
        let store = &self.settings.store;
        let outputs = store.outputs(&self.container_key(name, base.as_ref())?)?;
        let Some(json) = outputs.and_then(|outputs| outputs.get("image.json").copied()) else { return Ok(None) };
        let reader = store.read(&json.sha256)?;
        serde_json::from_reader(reader)
            .map(Some)
            .map_err(|source| store::Error::Json { path: store.path(&json.sha256), source }.into())
    }

    fn set(&self, name: &str) -> Result<&Set> {
        self.recipes.set(name, &self.lock, &self.settings.lock_path)
    }

    pub(crate) fn disk_key(&self, name: &str) -> Result<Recipe> {
        self.key("debian-disk", DISK_BUILDER, name, None)
    }

    fn container_key(&self, name: &str, base: Option<&ContainerImage>) -> Result<Recipe> {
        self.key("container", CONTAINER_BUILDER, name, base.map(|base| base.config.sha256))
    }

    /// Returns all that determines an image, in lines that can be compared.
    fn key(&self, kind: &str, builder: u32, name: &str, base: Option<Digest>) -> Result<Recipe> {
        let set = self.set(name)?;
        let recipe = serde_json::json!(self.recipe(name)?).to_string();
        let mut inputs: BTreeMap<_, _> = [
            ("builder".to_owned(), builder.to_string()),
            ("recipe".to_owned(), recipe),
            ("epoch".to_owned(), set.epoch.to_string()),
        ]
        .into();
        inputs.extend(base.map(|base| ("base".to_owned(), base.to_string())));
        let tools = toolroot::set(&self.lock, &self.settings.lock_path)?;
        for (what, set) in [("package", set), ("tool", tools)] {
            for (id, package) in self.pinned(set.all()) {
                inputs.insert(format!("{what}/{id}"), package.sha256.to_string());
            }
        }
        if let Kind::Container(_) = self.recipe(name)?.kind {
            inputs.insert("env".to_owned(), serde_json::json!(self.recipes.env(name)?).to_string());
        }
        Ok(Recipe { kind: kind.to_owned(), inputs })
    }

    fn pinned<'s>(&'s self, ids: impl IntoIterator<Item = &'s String>) -> Vec<(&'s String, &'s Package)> {
        ids.into_iter().filter_map(|id| self.lock.packages.get_key_value(id)).collect()
    }

    /// Brings packages into the store; one that is there altered counts as missing.
    fn fetch(&self, packages: &[(&String, &Package)]) -> Result<()> {
        let store = &self.settings.store;
        let mut missing = Vec::new();
        for (id, package) in packages {
            if !store.mend(&package.sha256)? {
                missing.push((*id, *package));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Fetcher::new(store).packages(&Mirror::of_system()?, &missing, self.settings.progress)
    }

    fn blobs<'s>(&'s self, packages: &[(&'s String, &'s Package)]) -> Vec<(&'s String, PathBuf)> {
        packages.iter().map(|(id, package)| (*id, self.settings.store.path(&package.sha256))).collect()
    }

    /// Returns the programs that build, unpacked now if no image was built before.
    fn tools(&self, name: &str) -> Result<Arc<ToolRoot>> {
        let mut tools = self.tools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tools) = &*tools {
            return Ok(Arc::clone(tools));
        }
        let packages = self.pinned(toolroot::set(&self.lock, &self.settings.lock_path)?.all());
        self.fetch(&packages)?;
        self.say(name, &format!("unpacking the {} packages that build", packages.len()));
        let new = Arc::new(ToolRoot::unpack(&self.settings.scratch_dir, self.blobs(&packages))?);
        *tools = Some(Arc::clone(&new));
        Ok(new)
    }

    fn say(&self, name: &str, what: &str) {
        (self.settings.progress)(&format!("{name}: {what}"));
    }

    pub(crate) fn build_disk(&self, scratch: &Scratch, name: &str, key: &Digest) -> Result<Finished> {
        let recipe = self.recipes.disk(name)?;
        let set = self.set(name)?;
        check_clock(set.epoch)?;
        let tools = self.tools(name)?;
        let sandbox = Sandbox { clock: self.clock.clone(), ..scratch.sandbox(name, &tools, set.epoch, None) };
        self.assemble(&sandbox, set, &BTreeSet::new(), &recipe.files, &recipe.setup)?;
        self.say(name, "making the disk");
        disk::finish(&sandbox, recipe, key, &self.settings.store, &|what| self.say(name, what))
    }

    pub(crate) fn build_container(
        &self,
        scratch: &Scratch,
        name: &str,
        base: Option<&ContainerImage>,
    ) -> Result<ContainerImage> {
        let recipe = self.recipes.container(name)?;
        let set = self.set(name)?;
        let mut layers = base.map(|base| base.layers.clone()).unwrap_or_default();
        let below: BTreeSet<&String> = match &recipe.base {
            Some(base) => self.set(base)?.all().collect(),
            None => BTreeSet::new(),
        };
        if base.is_none()
            || !recipe.files.is_empty()
            || !recipe.setup.is_empty()
            || set.all().any(|id| !below.contains(id))
        {
            layers.push(self.build_layer(scratch, name, &layers, set, &below)?);
        }
        let env = self.recipes.env(name)?;
        container::seal(name, recipe, &env, layers, set.epoch, &self.settings.store)
    }

    /// Makes one layer: the whole root where nothing is below, else what an overlay catches.
    fn build_layer(
        &self,
        scratch: &Scratch,
        name: &str,
        layers: &[Layer],
        set: &Set,
        below: &BTreeSet<&String>,
    ) -> Result<Layer> {
        check_clock(set.epoch)?;
        let recipe = self.recipes.container(name)?;
        let path = |part: &str| scratch.folder().join(part);
        let overlay = if layers.is_empty() {
            None
        } else {
            self.say(name, "unpacking its base");
            container::unpack(layers, &self.settings.store, &path("lower"))?;
            for part in ["upper", "changes"] {
                make_open(&path(part))?;
            }
            Some(container::overlay_options(&path("lower"), &path("upper"), &path("changes")))
        };
        let target = if overlay.is_some() { "upper" } else { "root" };
        let tools = self.tools(name)?;
        let sandbox = Sandbox { clock: self.clock.clone(), ..scratch.sandbox(name, &tools, set.epoch, overlay) };
        self.assemble(&sandbox, set, below, &recipe.files, &recipe.setup)?;
        self.say(name, "packing the layer");
        container::pack(&path(target), set.epoch, &self.settings.store)
    }

    /// Fills a root: essential packages, files, packages, setup, cleaning.
    fn assemble(
        &self,
        sandbox: &Sandbox<'_>,
        set: &Set,
        below: &BTreeSet<&String>,
        files: &BTreeMap<String, FileEntry>,
        setup: &[String],
    ) -> Result<()> {
        let new = |ids: &[String]| ids.iter().filter(|id| !below.contains(id)).cloned().collect::<Vec<_>>();
        let (bootstrap, packages) = (new(&set.bootstrap), new(&set.packages));
        let (mut bootstrap, mut packages) = (self.pinned(&bootstrap), self.pinned(&packages));
        self.fetch(&bootstrap)?;
        self.fetch(&packages)?;
        sandbox.prepare()?;
        if sandbox.overlay.is_some() {
            // The base is there; an essential package that moved since is an ordinary upgrade.
            packages.append(&mut bootstrap);
        }
        if !bootstrap.is_empty() {
            self.say(sandbox.image, &format!("installing {} essential packages", bootstrap.len()));
            sandbox.offer("bootstrap", self.blobs(&bootstrap))?;
            sandbox.bootstrap()?;
        }
        sandbox.files(files)?;
        if !packages.is_empty() {
            self.say(sandbox.image, &format!("installing {} packages", packages.len()));
            sandbox.offer("packages", self.blobs(&packages))?;
            sandbox.install()?;
        }
        self.say(sandbox.image, "setting up and cleaning");
        sandbox.setup(setup)?;
        sandbox.clean()
    }
}

/// Refuses a clock that is behind the pinned time: what a build writes is set back to that time, and could not be told
/// from what packages bring along.
fn check_clock(pinned: u64) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    if now < pinned { Err(Error::Clock { now, pinned }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_behind_the_pins_is_refused() {
        check_clock(1).unwrap();
        let error = check_clock(u64::MAX).unwrap_err().to_string();
        assert!(error.starts_with("this machine's clock says ") && error.ends_with("hint: set the clock"), "{error}");
    }
}
