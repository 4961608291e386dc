//! Makes metrics and registers them in one step.

use prometheus::core::Collector;
use prometheus::{
    Counter, Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts,
    Registry,
};

/// Puts what it makes into one registry. An error means that a name is taken or not allowed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Register<'a>(pub(crate) &'a Registry);

impl Register<'_> {
    pub(crate) fn gauge(self, name: &str, help: &str) -> Result<Gauge, Error> {
        self.add(Gauge::new(name, help))
    }

    pub(crate) fn gauges(self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, Error> {
        self.add(GaugeVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn counter(self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.add(IntCounter::new(name, help))
    }

    /// A counter of seconds, which are no whole numbers.
    pub(crate) fn seconds(self, name: &str, help: &str) -> Result<Counter, Error> {
        self.add(Counter::new(name, help))
    }

    pub(crate) fn counters(self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// `buckets` are upper bounds, in the unit of the metric's name.
    pub(crate) fn histogram(self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(options))
    }

    pub(crate) fn histograms(
        self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, Error> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(options, labels))
    }

    /// A gauge that is always 1: what it says stands in its labels.
    pub(crate) fn info(self, name: &str, help: &str, labels: &[(&str, &str)]) -> Result<(), Error> {
        let options = labels
            .iter()
            .fold(Opts::new(name, help), |options, (label, value)| {
                options.const_label(*label, *value)
            });
        self.add(Gauge::with_opts(options))?.set(1.0);
        Ok(())
    }

    fn add<C: Collector + Clone + 'static>(self, made: Result<C, Error>) -> Result<C, Error> {
        let collector = made?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }
}

/// Brings a counter up to what has been counted elsewhere. It never falls.
pub(super) fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}
