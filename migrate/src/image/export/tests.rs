use std::io::Write as _;

use serde_json::json;

use super::*;

fn config_of(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
        .into_bytes()
}

struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn file(mut self, path: &str, bytes: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        self.0.append_data(&mut header, path, bytes).unwrap();
        self
    }

    fn link(mut self, path: &str, target: &str) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    fn manifest(self, config: &str, layers: &[&str]) -> Self {
        let manifest = json!([{"Config": config, "RepoTags": ["x:1"], "Layers": layers}]).to_string();
        self.file("manifest.json", manifest.as_bytes())
    }

    fn read(self, wanted: &Wanted) -> (tempfile::TempDir, Result<Exported, ExportError>) {
        let spool = tempfile::tempdir().unwrap();
        let bytes = self.0.into_inner().unwrap();
        let read = read_save(bytes.as_slice(), wanted, spool.path());
        (spool, read)
    }
}

fn files(spool: &tempfile::TempDir) -> usize {
    std::fs::read_dir(spool.path()).unwrap().count()
}

const LOW: &[u8] = b"low layer";
const TOP: &[u8] = b"{top layer, whose first file's name begins with a brace";

/// As 20.10 writes it; the second layer stands twice, once as a link.
fn classic() -> Tar {
    Tar::new()
        .file("aa/VERSION", b"1.0")
        .file("aa/json", b"{}")
        .file("aa/layer.tar", LOW)
        .file("bb/layer.tar", TOP)
        .link("cc/layer.tar", "../bb/layer.tar")
        .file("c.json", &config_of(&[LOW, TOP, TOP]))
        .manifest("c.json", &["aa/layer.tar", "bb/layer.tar", "cc/layer.tar"])
}

#[test]
fn a_classic_save_gives_config_and_wanted_layers() {
    let wanted = Wanted::Only(BTreeSet::from([Digest::of(TOP)]));
    let (spool, read) = classic().read(&wanted);
    let exported = read.unwrap();
    assert_eq!(exported.identity.config_digest, Digest::of(&exported.config));
    assert_eq!(exported.identity.diff_ids, [LOW, TOP, TOP].map(Digest::of));
    assert_eq!(exported.layers.len(), 1);
    let layer = &exported.layers[&Digest::of(TOP)];
    assert_eq!(std::fs::read(&layer.path).unwrap(), TOP);
    assert_eq!(layer.size, TOP.len() as u64);
    assert_eq!(files(&spool), 1);
}

#[test]
fn all_layers_or_none_can_be_kept_and_nothing_else_is() {
    let (spool, read) = classic().read(&Wanted::All);
    assert_eq!(read.unwrap().layers.len(), 2);
    assert_eq!(files(&spool), 2);
    let (spool, read) = classic().read(&Wanted::Nothing);
    assert!(read.unwrap().layers.is_empty());
    assert_eq!(files(&spool), 0);
}

#[test]
fn compressed_blobs_of_an_oci_save_are_known_by_their_content() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(LOW).unwrap();
    let gzip = gzip.finish().unwrap();
    let packed = zstd::bulk::compress(TOP, 1).unwrap();
    let config = config_of(&[LOW, TOP]);
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", Digest::of(bytes).hex());
    let layer = |bytes: &[u8]| json!({"mediaType": "t", "digest": Digest::of(bytes).to_string(), "size": bytes.len()});
    let manifest = json!({"config": layer(&config), "layers": [layer(&gzip), layer(&packed)]}).to_string();
    let index = json!({"manifests": [layer(manifest.as_bytes())]}).to_string();
    let (_spool, read) = Tar::new()
        .file(&blob(&gzip), &gzip)
        .file(&blob(&packed), &packed)
        .file(&blob(&config), &config)
        .file(&blob(manifest.as_bytes()), manifest.as_bytes())
        .file("index.json", index.as_bytes())
        .manifest(&blob(&config), &[&blob(&gzip), &blob(&packed)])
        .read(&Wanted::All);
    let exported = read.unwrap();
    assert_eq!(
        std::fs::read(&exported.layers[&Digest::of(LOW)].path).unwrap(),
        LOW
    );
    assert_eq!(
        std::fs::read(&exported.layers[&Digest::of(TOP)].path).unwrap(),
        TOP
    );
    assert_eq!(exported.descriptors[0].digest, Digest::of(&gzip));
    assert_eq!(exported.descriptors[1].size, packed.len() as u64);
}

#[test]
fn damaged_and_incomplete_saves_are_refused() {
    let other = Tar::new()
        .file("aa/layer.tar", b"other bytes")
        .file("c.json", &config_of(&[LOW]))
        .manifest("c.json", &["aa/layer.tar"]);
    let (spool, read) = other.read(&Wanted::Only(BTreeSet::new()));
    assert!(matches!(read, Err(ExportError::Damaged { .. })));
    assert_eq!(files(&spool), 0);
    let wanted = Wanted::Only(BTreeSet::from([Digest::of(b"nowhere")]));
    assert!(matches!(
        classic().read(&wanted).1,
        Err(ExportError::NoSuchLayer(_))
    ));
    assert!(matches!(
        Tar::new().read(&Wanted::All).1,
        Err(ExportError::Document("manifest.json"))
    ));
    let no_config = Tar::new().manifest("c.json", &[]);
    assert!(matches!(
        no_config.read(&Wanted::All).1,
        Err(ExportError::Document("image config"))
    ));
    let short = Tar::new()
        .file("c.json", &config_of(&[LOW]))
        .manifest("c.json", &[]);
    assert!(matches!(
        short.read(&Wanted::All).1,
        Err(ExportError::Document("list of layers"))
    ));
}

#[test]
fn link_targets_are_only_names() {
    assert_eq!(
        resolve(Path::new("cc"), Path::new("../bb/layer.tar")),
        "bb/layer.tar"
    );
    assert_eq!(
        resolve(Path::new("cc"), Path::new("../../../etc/passwd")),
        "etc/passwd"
    );
    assert_eq!(resolve(Path::new(""), Path::new("/etc/passwd")), "etc/passwd");
}
