//! Layers of other images that this engine holds: another version of a base has most of its bytes in them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;

use blosm_migrate::docker::EngineError;
use blosm_migrate::engine::Engine;
use blosm_migrate::image::{Digest, chain_ids};
use blosm_migrate::transfer::Seeds;
use tokio::runtime::Handle;

use crate::parts::Parts;

/// Most layers that are looked through for one image.
const MAX_SEEDS: usize = 64;

/// All layers here, the upper ones of each image first. They are read, one after another, as long as something is
/// wanted; without a helper there are none.
pub(super) async fn seeds(parts: &Parts) -> Result<Seeds, EngineError> {
    let chains = parts.engine.chains().await?;
    let (engine, runtime) = (parts.engine.clone(), Handle::current());
    let layers = distinct(chains).into_iter().take(MAX_SEEDS);
    Ok(Box::new(layers.filter_map(move |chain| {
        open(&engine, &runtime, &chain).map(|file| Box::new(file) as Box<dyn Read + Send>)
    })))
}

/// Each layer once, with those that it stands on.
fn distinct(chains: Vec<Vec<Digest>>) -> Vec<Vec<Digest>> {
    let mut seen = BTreeSet::new();
    let mut layers = Vec::new();
    for chain in chains {
        let ids = chain_ids(&chain);
        for (index, id) in ids.iter().enumerate().rev() {
            if seen.insert(*id) {
                layers.push(chain[..=index].to_vec());
            }
        }
    }
    layers
}

/// On a thread that may block.
fn open(engine: &Engine, runtime: &Handle, chain: &[Digest]) -> Option<File> {
    let which = u16::try_from(chain.len().checked_sub(1)?).ok()?;
    runtime.block_on(engine.layer(chain, which)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_images_share_is_read_once() {
        let [base, app, other] = [b"base", b"appl", b"othe"].map(|bytes| Digest::of(bytes));
        let layers = distinct(vec![vec![base, app], vec![base], vec![base, other]]);
        assert_eq!(layers, vec![vec![base, app], vec![base], vec![base, other]]);
    }
}
