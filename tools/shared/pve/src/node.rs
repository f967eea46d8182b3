use std::io::Read;
use std::time::Duration;

use site::Vmid;
use ureq::http::Method;

use crate::client::Client;
use crate::error::Error;
use crate::form::{Form, escape};
use crate::multipart::Upload;
use crate::task;
use crate::types::Volume;
use crate::vm::Vm;

/// The calls of one node.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub(crate) client: &'a Client,
    pub(crate) name: &'a str,
}

impl<'a> Node<'a> {
    /// Returns the calls of one VM.
    pub fn vm(self, vmid: Vmid) -> Vm<'a> {
        Vm { client: self.client, path: format!("/nodes/{}/qemu/{vmid}", self.name) }
    }

    /// Returns a storage's volumes of one kind, as `iso`.
    ///
    /// # Errors
    /// As every call: [`Error`].
    pub fn content(self, storage: &str, kind: &str) -> Result<Vec<Volume>, Error> {
        let path = format!("/nodes/{}/storage/{}/content", self.name, escape(storage));
        self.client.get(&path, &Form::new().set("content", kind))
    }

    /// Uploads a file to a storage and waits until the server has checked and placed it. `deadline` is for each of both.
    ///
    /// # Errors
    /// As every call; [`Error::Task`] where the checksum does not fit.
    pub fn upload(self, storage: &str, upload: &Upload, file: &mut dyn Read, deadline: Duration) -> Result<(), Error> {
        let path = format!("/nodes/{}/storage/{}/upload", self.name, escape(storage));
        let upid = self.client.upload(&path, upload, file, deadline)?;
        task::wait(self.client, &upid, deadline)
    }

    /// Deletes a volume. The server does not look whether something uses it.
    ///
    /// # Errors
    /// As every call: [`Error`].
    pub fn delete_volume(self, volid: &str, deadline: Duration) -> Result<(), Error> {
        let storage = volid.split(':').next().unwrap_or_default();
        let path = format!("/nodes/{}/storage/{}/content/{}", self.name, escape(storage), escape(volid));
        task::run(self.client, &Method::DELETE, &path, &Form::new(), deadline)
    }

    /// Creates a VM and waits for it.
    ///
    /// # Errors
    /// As every call; [`Error::Task`] where a disk can't be made or imported.
    pub fn create(self, vmid: Vmid, form: Form, deadline: Duration) -> Result<(), Error> {
        let path = format!("/nodes/{}/qemu", self.name);
        task::run(self.client, &Method::POST, &path, &form.set("vmid", vmid), deadline)
    }
}
