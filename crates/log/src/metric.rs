//! What a metric is, so that each is described once: its entry in a table is what it is declared from, what
//! `docs/metrics.md` is made from, and what a scrape is held to.
//!
//! Every crate has the table of its own metrics, made with [`metrics!`](crate::metrics!); the binary joins them.

use prometheus::core::Collector;
use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, Result,
};

/// One metric: a family, as Prometheus calls it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, with prefix and unit.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// What it counts or measures in.
    pub unit: Unit,
    /// What it says, in a sentence or two.
    pub help: &'static str,
    /// Its labels; none of them is anything that a client sent.
    pub labels: &'static [Label],
    /// Which servers have it.
    pub when: When,
}

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// It rises from the start of the process on.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many observations were how large: the upper bounds of its buckets, without the infinite one.
    Histogram(&'static [f64]),
}

impl Kind {
    /// The word as Prometheus has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// What a metric counts or measures in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// A moment, in seconds since 1970.
    Timestamp,
    /// Bytes.
    Bytes,
    /// A part of a whole, 0 to 1.
    Ratio,
    /// 1 where it is so, else 0.
    Flag,
    /// A number of these.
    Number(&'static str),
}

impl Unit {
    /// The word for the documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Timestamp => "seconds since 1970",
            Self::Bytes => "bytes",
            Self::Ratio => "ratio",
            Self::Flag => "0 or 1",
            Self::Number(what) => what,
        }
    }

    /// What a name of a metric in this unit ends with, before `_total`; empty where that is not laid down.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Seconds => "_seconds",
            Self::Timestamp => "_timestamp_seconds",
            Self::Bytes => "_bytes",
            Self::Ratio => "_ratio",
            Self::Flag | Self::Number(_) => "",
        }
    }
}

/// A label and the values it may have.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub values: Values,
}

/// The values that a label may have. Each of them bounds how many series there are.
#[derive(Debug, Clone, Copy)]
pub enum Values {
    /// These words alone.
    Words(fn() -> Vec<&'static str>),
    /// The numbers of the log's partitions, from 0.
    Partitions,
    /// The numbers of the cluster's brokers; `-1` for the servers that were asked first.
    Brokers,
    /// One, for as long as the process runs.
    One,
}

impl Label {
    /// A label that is one of a few words.
    #[must_use]
    pub const fn words(name: &'static str, words: fn() -> Vec<&'static str>) -> Self {
        let values = Values::Words(words);
        Self { name, values }
    }

    /// The partition.
    pub const PARTITION: Self = Self {
        name: "partition",
        values: Values::Partitions,
    };
}

/// Which servers have a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Every one.
    Always,
    /// Those with `log.kind = "kafka"`.
    Kafka,
    /// Those that take tokens.
    Tokens,
    /// Those whose settings name a certificate in PEM.
    Certificates,
}

impl When {
    /// In a few words, for the documentation.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Kafka => "with `log.kind = \"kafka\"`",
            Self::Tokens => "where tokens are taken (`auth.jwt`)",
            Self::Certificates => "where `kafka.properties` names a certificate",
        }
    }
}

/// The sizes that decide how many series there are.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Partitions of the log of interactions.
    pub partitions: usize,
    /// Brokers of the cluster, those that were asked first counted once more.
    pub brokers: usize,
}

impl Metric {
    const fn new(name: &'static str, kind: Kind, unit: Unit, help: &'static str) -> Self {
        Self {
            name,
            kind,
            unit,
            help,
            labels: &[],
            when: When::Always,
        }
    }

    /// A counter.
    #[must_use]
    pub const fn counter(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self::new(name, Kind::Counter, unit, help)
    }

    /// A gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self::new(name, Kind::Gauge, unit, help)
    }

    /// A histogram with the upper bounds of its buckets.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        unit: Unit,
        help: &'static str,
        buckets: &'static [f64],
    ) -> Self {
        Self::new(name, Kind::Histogram(buckets), unit, help)
    }

    /// The same with labels.
    #[must_use]
    pub const fn by(self, labels: &'static [Label]) -> Self {
        Self { labels, ..self }
    }

    /// The same of some servers alone.
    #[must_use]
    pub const fn only(self, when: When) -> Self {
        Self { when, ..self }
    }

    /// How many series it has at most: a histogram's buckets, sum and count are one each.
    #[must_use]
    pub fn series(&self, extent: Extent) -> usize {
        let each = match self.kind {
            Kind::Counter | Kind::Gauge => 1,
            Kind::Histogram(buckets) => buckets.len() + 3,
        };
        let values = self.labels.iter().map(|label| match label.values {
            Values::Words(words) => words().len(),
            Values::Partitions => extent.partitions,
            Values::Brokers => extent.brokers,
            Values::One => 1,
        });
        values.product::<usize>().saturating_mul(each)
    }

    fn options(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|label| label.name).collect()
    }

    /// Refuses to be declared as what it is not.
    fn is(&self, kind: &str) -> Result<()> {
        if self.kind.as_str() == kind {
            return Ok(());
        }
        let Self { name, .. } = self;
        Err(Error::Msg(format!("{name} is declared as a {kind}")))
    }
}

/// Makes a table of metrics: a constant for each, and one for all of them.
#[macro_export]
macro_rules! metrics {
    ($(#[$doc:meta])* $vis:vis $all:ident: $($name:ident = $metric:expr;)+) => {
        $(pub(crate) const $name: $crate::metric::Metric = $metric;)+

        $(#[$doc])*
        $vis const $all: &[$crate::metric::Metric] = &[$($name),+];
    };
}

/// Makes metrics from their entries, and registers them where there is a registry.
#[derive(Debug, Clone, Copy)]
pub struct Declare<'a>(Option<&'a Registry>);

impl<'a> Declare<'a> {
    /// With a registry.
    #[must_use]
    pub fn with(registry: &'a Registry) -> Self {
        Self(Some(registry))
    }

    /// With none: for who counts and is never asked.
    #[must_use]
    pub fn nowhere() -> Self {
        Self(None)
    }

    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C> {
        if let Some(registry) = self.0 {
            registry.register(Box::new(metric.clone()))?;
        }
        Ok(metric)
    }

    /// A counter without labels.
    ///
    /// # Errors
    /// Where the entry is another kind's, or its name is registered; so for all of these.
    pub fn counter(&self, metric: &Metric) -> Result<IntCounter> {
        metric.is("counter")?;
        self.add(IntCounter::with_opts(metric.options())?)
    }

    /// Counters by label.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    pub fn counters(&self, metric: &Metric) -> Result<IntCounterVec> {
        metric.is("counter")?;
        self.add(IntCounterVec::new(metric.options(), &metric.label_names())?)
    }

    /// A gauge of whole numbers without labels.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    pub fn gauge(&self, metric: &Metric) -> Result<IntGauge> {
        metric.is("gauge")?;
        self.add(IntGauge::with_opts(metric.options())?)
    }

    /// Gauges of whole numbers by label.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    pub fn gauges(&self, metric: &Metric) -> Result<IntGaugeVec> {
        metric.is("gauge")?;
        self.add(IntGaugeVec::new(metric.options(), &metric.label_names())?)
    }

    /// A gauge without labels.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    pub fn float_gauge(&self, metric: &Metric) -> Result<Gauge> {
        metric.is("gauge")?;
        self.add(Gauge::with_opts(metric.options())?)
    }

    /// Gauges by label.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    pub fn float_gauges(&self, metric: &Metric) -> Result<GaugeVec> {
        metric.is("gauge")?;
        self.add(GaugeVec::new(metric.options(), &metric.label_names())?)
    }

    /// A histogram without labels.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    pub fn histogram(&self, metric: &Metric) -> Result<Histogram> {
        self.add(Histogram::with_opts(Self::buckets(metric)?)?)
    }

    /// Histograms by label.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    pub fn histograms(&self, metric: &Metric) -> Result<HistogramVec> {
        let options = Self::buckets(metric)?;
        self.add(HistogramVec::new(options, &metric.label_names())?)
    }

    fn buckets(metric: &Metric) -> Result<HistogramOpts> {
        metric.is("histogram")?;
        let options = HistogramOpts::from(metric.options());
        Ok(match metric.kind {
            Kind::Histogram(buckets) => options.buckets(buckets.to_vec()),
            Kind::Counter | Kind::Gauge => options,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTED: Metric = Metric::counter("tally_x_total", Unit::Number("x"), "X.");
    const TIMED: Metric = Metric::histogram("tally_x_seconds", Unit::Seconds, "X.", &[0.1, 1.])
        .by(&[Label::words("word", || vec!["a", "b"]), Label::PARTITION]);

    /// Protects the one description of a metric: what is declared is what the entry says.
    #[test]
    fn a_metric_is_declared_as_what_its_entry_says() {
        let registry = Registry::new();
        let declare = Declare::with(&registry);
        assert!(declare.gauge(&COUNTED).is_err());
        assert!(declare.counters(&TIMED).is_err());
        declare.counter(&COUNTED).unwrap().inc();
        assert!(declare.counter(&COUNTED).is_err(), "no name twice");
        let timed = declare.histograms(&TIMED).unwrap();
        timed.with_label_values(&["a", "0"]).observe(0.5);
        let families = registry.gather();
        let buckets = families[0].get_metric()[0].get_histogram().get_bucket();
        let bounds: Vec<f64> = buckets.iter().map(|b| b.upper_bound()).collect();
        assert_eq!(bounds, [0.1, 1.]);
    }

    /// Protects the bound on the number of series, which the documentation states.
    #[test]
    fn the_most_series_are_values_times_buckets() {
        let extent = Extent {
            partitions: 16,
            brokers: 1,
        };
        assert_eq!(COUNTED.series(extent), 1);
        assert_eq!(TIMED.series(extent), 2 * 16 * (2 + 3));
    }
}
