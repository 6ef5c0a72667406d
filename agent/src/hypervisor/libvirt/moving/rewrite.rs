//! A domain as it stands on the node it goes to: other folders, another bridge.

use std::path::Path;

use berth_model::agent::MoveRoom;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, Writer};

/// What stands where.
#[derive(Debug, Clone, Copy)]
pub struct Rewrite<'a> {
    /// The VM's folder here.
    pub folder: &'a Path,
    /// The images here.
    pub images: &'a Path,
    /// The bridge here.
    pub bridge: Option<&'a str>,
    /// All of it there.
    pub room: &'a MoveRoom,
}

impl Rewrite<'_> {
    /// The domain's XML, for there.
    pub fn apply(&self, xml: &str) -> Result<String, String> {
        let mut reader = Reader::from_str(xml);
        let mut writer = Writer::new(Vec::new());
        loop {
            let event = match reader.read_event().map_err(|e| e.to_string())? {
                Event::Eof => break,
                Event::Start(element) => Event::Start(self.element(element)?),
                Event::Empty(element) => Event::Empty(self.element(element)?),
                other => other,
            };
            writer.write_event(event).map_err(|e| e.to_string())?;
        }
        String::from_utf8(writer.into_inner()).map_err(|e| e.to_string())
    }

    fn element<'e>(&self, element: BytesStart<'e>) -> Result<BytesStart<'e>, String> {
        let name = match element.name().as_ref() {
            "source" => "source",
            "log" => "log",
            _ => return Ok(element),
        };
        let mut new = BytesStart::new(name);
        for attribute in element.attributes() {
            let attribute = attribute.map_err(|e| e.to_string())?;
            let key = attribute.key.as_ref();
            let value = quick_xml::escape::unescape(&attribute.value).map_err(|e| e.to_string())?;
            new.push_attribute((key, &*self.value(key, &value)));
        }
        Ok(new)
    }

    fn value(&self, key: &str, value: &str) -> String {
        let below = |old: &Path, new: &str| {
            let rest = Path::new(value).strip_prefix(old).ok()?;
            Some(Path::new(new).join(rest).to_string_lossy().into_owned())
        };
        let new = match key {
            "file" => below(self.folder, &self.room.folder).or_else(|| below(self.images, &self.room.images)),
            "bridge" => self.room.bridge.clone().filter(|_| self.bridge == Some(value)),
            _ => None,
        };
        new.unwrap_or_else(|| value.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use berth_model::agent::DomainType;

    use super::*;

    #[test]
    fn files_and_bridges_are_those_of_the_other_node() {
        let _proof = crate::proof::pure(&["moving.send"]);
        let room = MoveRoom {
            domain_type: DomainType::Qemu,
            domain: "t-7".to_owned(),
            folder: "/other/vms/7".to_owned(),
            images: "/other/images".to_owned(),
            bridge: Some("br1".to_owned()),
        };
        let (folder, images) = (Path::new("/a&b/vms/7"), Path::new("/a&b/images"));
        let rewrite = Rewrite { folder, images, bridge: Some("br0"), room: &room };
        let xml = "<domain><metadata>file='/a&amp;b/vms/7/x'</metadata>\
            <source file='/a&amp;b/vms/7/disk.qcow2' index='1'/><source file='/a&amp;b/images/i.qcow2'/>\
            <source file='/a&amp;b/vms/77/disk'/><log file='/a&amp;b/vms/7/console.log' append='on'/>\
            <source bridge='br0'/><source bridge='br7'/><target dev='br0'/></domain>";
        let there = "<domain><metadata>file='/a&amp;b/vms/7/x'</metadata>\
            <source file=\"/other/vms/7/disk.qcow2\" index=\"1\"/><source file=\"/other/images/i.qcow2\"/>\
            <source file=\"/a&amp;b/vms/77/disk\"/><log file=\"/other/vms/7/console.log\" append=\"on\"/>\
            <source bridge=\"br1\"/><source bridge=\"br7\"/><target dev='br0'/></domain>";
        assert_eq!(rewrite.apply(xml).unwrap(), there);
    }
}
