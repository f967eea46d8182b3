//! `[stacks.NAME]`.

use std::collections::BTreeMap;

use super::secrets;
use crate::model::Stack;
use crate::names::Name;
use crate::reader::{At, Reader};
use crate::report::Finding;
use crate::scope::Kind;

pub(crate) fn stack(name: &Name, reader: &mut Reader<'_>) -> Option<Stack> {
    let guest = reader.reference("guest", Kind::Guest, "`guest = \"vm-intranet\"`");
    let folder = match reader.entry("folder") {
        Some(_) => reader.path("folder"),
        None => {
            let value = reader.scope.folder.join("stacks").join(name.as_str());
            Some(At { value, place: reader.table.place.clone() })
        }
    };
    if let Some(folder) = &folder {
        reader.scope.input(&folder.value);
    }
    if let Some(folder) = &folder
        && !folder.value.join("compose.yaml").is_file()
    {
        let message = format!("{} has no compose.yaml in {}", reader.what, folder.value.display());
        let help = "put it there, or name its folder with `folder`; a path is relative to the inventory's folder";
        reader.scope.report(Finding::at(&folder.place, message).help(help));
    }
    let shares = reader.references("shares", Kind::Share);
    let images: Option<BTreeMap<String, At<Name>>> =
        if reader.entry("images").is_some() { reader.optional("images") } else { Some(BTreeMap::new()) };
    for image in images.iter().flat_map(BTreeMap::values) {
        reader.scope.refer(Kind::Image, image.value.as_str(), &image.place);
    }
    let needs = reader.references("needs", Kind::Stack);
    let secrets = secrets::of_stack(reader);
    for used in secrets.iter().flat_map(|secrets| secrets.values()) {
        // As it is encrypted; a generation that is gone back to has the secrets that it had.
        let file = reader.scope.folder.join("secrets").join(format!("{}.age", used.secret));
        if file.is_file() {
            reader.scope.input(&file);
        }
    }
    let deadline =
        if reader.entry("deadline").is_some() { reader.number("deadline", &(1..=86_400)) } else { Some(300) };
    Some(Stack {
        guest: guest?,
        folder: folder?.value,
        shares: shares?,
        images: images?.into_iter().map(|(service, image)| (service, image.value)).collect(),
        needs: needs?,
        secrets: secrets?,
        deadline: deadline?,
    })
}
