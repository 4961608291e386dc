//! Single figures of a node's `/metrics`.

/// The sum of the samples of a metric whose labels hold all of these, such as `outcome="aborted"`.
pub(super) fn sum(page: &str, name: &str, labels: &[&str]) -> f64 {
    let of_metric = |line: &&str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
    };
    page.lines()
        .filter(of_metric)
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_metric_add_up() {
        let page = "# TYPE a counter\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\na_b{x=\"1\"} 5\nc 6\n";
        assert_eq!(sum(page, "a", &["x=\"1\""]), 7.0);
        assert_eq!(sum(page, "a", &["x=\"1\"", "y=\"3\""]), 4.0);
        assert_eq!(sum(page, "c", &[]), 6.0);
        assert_eq!(sum(page, "d", &[]), 0.0);
    }
}
