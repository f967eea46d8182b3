//! What has to be kept of recipes and pins, so that an image can be had again.

use std::collections::BTreeSet;

use crate::builder::Builder;
use crate::lock::Lock;
use crate::recipe::Kind;
use crate::{Result, recipe};

impl Builder<'_> {
    /// Returns the images that these stand on, themselves included.
    ///
    /// # Errors
    /// [`crate::Error::NoRecipe`].
    pub fn with_bases<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Result<BTreeSet<String>> {
        let mut all = BTreeSet::new();
        let mut open: Vec<String> = names.into_iter().map(str::to_owned).collect();
        while let Some(name) = open.pop() {
            if let Kind::Container(recipe::ContainerRecipe { base: Some(base), .. }) = &self.recipe(&name)?.kind {
                open.push(base.clone());
            }
            all.insert(name);
        }
        Ok(all)
    }

    /// Returns the part of the lock file that pins these images.
    ///
    /// # Errors
    /// [`crate::Error::NoRecipe`].
    pub fn pins(&self, names: &BTreeSet<String>) -> Result<Lock> {
        let mut pins = Lock { packages: self.lock().packages.clone(), ..Lock::default() };
        for name in names {
            let request = self.recipes().request(name)?;
            if let Some((request, set)) = request.and_then(|request| self.lock().sets.get_key_value(&request)) {
                pins.sets.insert(request.clone(), set.clone());
            }
        }
        pins.prune();
        Ok(pins)
    }
}
