use std::time::Duration;

use site::Vmid;
use ureq::http::Method;

use crate::client::Client;
use crate::error::Error;
use crate::form::Form;
use crate::task;
use crate::types::{Config, Pending, Power};

/// The calls of one VM. All of them fail as every call does, with an [`Error`]; those with a deadline wait for their task.
#[derive(Clone, Debug)]
pub struct Vm<'a> {
    pub(crate) client: &'a Client,
    pub(crate) path: String,
}

impl Vm<'_> {
    fn task(&self, method: &Method, what: &str, form: &Form, deadline: Duration) -> Result<(), Error> {
        task::run(self.client, method, &format!("{}{what}", self.path), form, deadline)
    }

    /// Returns the configuration in use; values that wait for the next start are not in it.
    ///
    /// # Errors
    /// See [`Vm`].
    pub fn config(&self) -> Result<Config, Error> {
        self.client.get(&format!("{}/config", self.path), &Form::new().flag("current", true))
    }

    /// Changes the configuration. `digest`, from [`Config`], has the server refuse where it has changed since.
    ///
    /// # Errors
    /// See [`Vm`]. On a running VM a failed hotplug is an error and yet waits for the next start.
    pub fn set(&self, form: Form, digest: &str) -> Result<(), Error> {
        let form = if digest.is_empty() { form } else { form.set("digest", digest) };
        self.client.call(&Method::PUT, &format!("{}/config", self.path), &form)
    }

    /// Returns every key with the value that waits for the next start.
    ///
    /// # Errors
    /// See [`Vm`].
    pub fn pending(&self) -> Result<Vec<Pending>, Error> {
        self.client.get(&format!("{}/pending", self.path), &Form::new())
    }

    /// Returns the power state.
    ///
    /// # Errors
    /// See [`Vm`].
    pub fn power(&self) -> Result<Power, Error> {
        self.client.get(&format!("{}/status/current", self.path), &Form::new())
    }

    /// Clones the VM; of a template the clone is a linked one.
    ///
    /// # Errors
    /// See [`Vm`].
    pub fn clone_to(&self, new: Vmid, form: Form, deadline: Duration) -> Result<(), Error> {
        self.task(&Method::POST, "/clone", &form.set("newid", new), deadline)
    }

    /// Makes the VM a template, for good.
    ///
    /// # Errors
    /// See [`Vm`].
    pub fn make_template(&self, deadline: Duration) -> Result<(), Error> {
        self.task(&Method::POST, "/template", &Form::new(), deadline)
    }

    /// Grows a disk to a size in bytes.
    ///
    /// # Errors
    /// See [`Vm`]. Shrinking fails, in the task.
    pub fn resize(&self, disk: &str, bytes: u64, deadline: Duration) -> Result<(), Error> {
        self.task(&Method::PUT, "/resize", &Form::new().set("disk", disk).set("size", bytes), deadline)
    }

    /// Starts the VM. Right after a stop it can be locked for a while, which is waited for.
    ///
    /// # Errors
    /// See [`Vm`].
    pub fn start(&self, deadline: Duration) -> Result<(), Error> {
        self.task(&Method::POST, "/status/start", &Form::new(), deadline)
    }

    /// Asks the guest to shut down, and pulls the plug where it has not within `patience`.
    ///
    /// # Errors
    /// See [`Vm`].
    pub fn shutdown(&self, patience: Duration) -> Result<(), Error> {
        let form = Form::new().set("timeout", patience.as_secs()).flag("forceStop", true);
        self.task(&Method::POST, "/status/shutdown", &form, patience + Duration::from_secs(60))
    }

    /// Pulls the plug; a stopped VM stays so.
    ///
    /// # Errors
    /// See [`Vm`].
    pub fn stop(&self, deadline: Duration) -> Result<(), Error> {
        self.task(&Method::POST, "/status/stop", &Form::new(), deadline)
    }

    /// Deletes the VM with its disks, and what the cluster's jobs know of it.
    ///
    /// # Errors
    /// See [`Vm`].
    pub fn delete(&self, deadline: Duration) -> Result<(), Error> {
        self.task(&Method::DELETE, "", &Form::new().flag("purge", true), deadline)
    }

    /// Tells whether the guest's agent answers.
    ///
    /// # Errors
    /// See [`Vm`]; also where there is no agent or it does not answer.
    pub fn ping(&self) -> Result<(), Error> {
        let _: serde_json::Value =
            self.client.call(&Method::POST, &format!("{}/agent/ping", self.path), &Form::new())?;
        Ok(())
    }

    /// Reads a file in the guest through its agent.
    ///
    /// # Errors
    /// See [`Vm`]; also where the agent does not answer, or there is no such file.
    pub fn read_file(&self, path: &str) -> Result<String, Error> {
        let answer: serde_json::Value =
            self.client.get(&format!("{}/agent/file-read", self.path), &Form::new().set("file", path))?;
        Ok(answer["content"].as_str().unwrap_or_default().to_owned())
    }
}
