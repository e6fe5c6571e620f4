//! An empty store that gets a whole state at once.

use super::{PUTS_PER_FLUSH, Store, StoreError, layout};

/// The number of the checkpoint that the state is then.
const CHECKPOINT: u64 = 1;

/// Puts values that are sealed already.
pub(crate) struct Filling<'a> {
    store: &'a dyn Store,
    puts: u64,
}

impl Filling<'_> {
    pub(crate) fn put(&mut self, key: &[u8], sealed: &[u8]) -> Result<(), StoreError> {
        self.store.put(key, Some(sealed))?;
        self.puts += 1;
        if self.puts.is_multiple_of(PUTS_PER_FLUSH) {
            self.store.flush()?;
        }
        Ok(())
    }
}

/// Fills it with what `with` puts; `identity` is the value of whose state that is. Cut short, it shows a
/// checkpoint that is not whole, and is not used.
///
/// # Errors
/// Those of `with`, and the store's.
pub(crate) fn fill<E: From<StoreError>>(
    store: &dyn Store,
    identity: Vec<u8>,
    with: impl FnOnce(&mut Filling<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let put = |key: &[u8], value: Vec<u8>| store.put(key, Some(&layout::seal(key, value)));
    let number = || layout::number_value(CHECKPOINT);
    put(layout::BEGUN, number())?;
    store.flush()?;
    with(&mut Filling { store, puts: 0 })?;
    store.flush()?;
    put(layout::IDENTITY, identity)?;
    put(layout::ENDED, number())?;
    Ok(store.flush()?)
}
