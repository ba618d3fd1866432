//! Where traces are sent to.

use bincode::{Decode, Encode};

use super::WebUrl;
use crate::secret::Secret;

/// An exporter of traces that is switched on: OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Exporter {
    /// Resource id.
    pub id: String,
    /// Its name, for metrics, logs and the Cloud.
    pub name: String,
    /// Where a batch is posted to, with its path.
    pub endpoint: WebUrl,
    /// What goes along with each batch, and may be a credential. Empty in a proxy worker, which needs none.
    pub headers: Vec<(String, Secret<String>)>,
    /// Which part of the requests it is told of, from 0 to 1.
    pub sample_rate: f64,
}
