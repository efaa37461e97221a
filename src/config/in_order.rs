//! Sorting.

/// Returns items in the order of a number, and those with the same as they were.
///
/// Of [`slice::sort_by_key`], each type of items has a copy, and a copy is 4 KiB: too much for
/// a few options.
pub fn in_order<T>(items: Vec<T>, number: impl Fn(&T) -> usize) -> Vec<T> {
    let mut order: Vec<(usize, usize)> = items.iter().map(number).zip(0..).collect();
    order.sort_unstable();
    let mut items: Vec<_> = items.into_iter().map(Some).collect();
    let take = |(_, at): (usize, usize)| items.get_mut(at)?.take();
    order.into_iter().filter_map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_items_stay_as_they_were() {
        let items = vec![(2, 'a'), (1, 'b'), (2, 'c'), (1, 'd')];
        let sorted = in_order(items, |(number, _)| *number);
        assert_eq!(sorted, [(1, 'b'), (1, 'd'), (2, 'a'), (2, 'c')]);
        assert!(in_order(Vec::<char>::new(), |_| 0).is_empty());
    }
}
