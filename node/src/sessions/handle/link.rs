//! `blosm bandwidth`: an operator measures the link from another member.

use blosm_migrate::transfer::PullError;
use blosm_migrate::transfer::sample::Bandwidth;

use super::*;
use crate::sessions::link;

impl SessionsHandle {
    /// Measures for so long what comes from a member over the path that layers take. Forecasts use it from then on.
    ///
    /// # Errors
    /// The member does not answer, or lets another one measure.
    pub async fn bandwidth(&self, from: PublicKey, time: Duration) -> Result<Bandwidth, PullError> {
        link::measure(&self.0.parts, from, time).await
    }
}
