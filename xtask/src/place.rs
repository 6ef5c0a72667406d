//! Where things stand: the checkout, its target folder, the cache that all checkouts share.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Where things stand.
#[derive(Debug, Clone)]
pub struct Place {
    /// The checkout.
    pub root: PathBuf,
    /// What cargo builds into.
    pub target: PathBuf,
    /// `$XDG_CACHE_HOME/berth` or `~/.cache/berth`.
    pub cache: PathBuf,
}

impl Place {
    /// Finds them from the environment.
    pub fn find() -> Result<Self> {
        // Cargo says where this package stands; a copied binary falls back on where it was built.
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.parent().context("xtask stands in a checkout")?.to_owned();
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = absolute("XDG_CACHE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
            .context("Neither HOME nor XDG_CACHE_HOME says where to keep tools and images: set one of them.")?
            .join("berth");
        Ok(Self { root, target, cache })
    }

    /// A program built in the profile that everything here uses.
    pub fn program(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    /// The built web app: where Trunk puts it.
    pub fn app(&self) -> PathBuf {
        self.root.join("target/dist")
    }

    /// Where tools are kept.
    pub fn tools(&self) -> PathBuf {
        self.cache.join("tools")
    }

    /// Where guest images are kept.
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// Logs of long steps.
    pub fn logs(&self) -> PathBuf {
        self.target.join("xtask")
    }
}

/// A path as text, for a command line or a settings file.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("The path {} is not UTF-8; move the checkout.", path.display()))
}
