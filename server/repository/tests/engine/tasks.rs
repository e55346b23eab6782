//! Everything can run in a spawned task. Compiled, not run: borrowed streams inside an `async fn` easily lose this.

use repository::{
    DiskImage, DiskInput, NoProgress, ObjectBackend, PointId, PointMetadata, PointWriter, Repository, VerifyOptions,
};
use secrecy::SecretString;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

fn is_task<T: Send>(_: T) {}

#[allow(dead_code, clippy::too_many_arguments)]
fn all_are_tasks(
    backend: Arc<dyn ObjectBackend>,
    passphrase: &'static SecretString,
    repository: &'static Repository,
    writer: &'static PointWriter,
    image: &'static DiskImage,
    input: DiskInput,
    metadata: PointMetadata,
    id: PointId,
    cancel: &'static CancellationToken,
) {
    is_task(async move { Repository::open(backend, passphrase).await });
    is_task(async move { repository.points().await });
    is_task(async move { repository.open_disk(id, 0).await });
    is_task(async move { repository.verify(VerifyOptions::default(), Arc::new(NoProgress), cancel).await });
    is_task(async move { repository.begin_point(id).await?.commit(metadata).await });
    is_task(async move { repository.begin_point(id).await.unwrap().abandon().await });
    is_task(async move { writer.backup_disk(input, Arc::new(NoProgress), cancel).await });
    is_task(async move { image.read_at(0, 1).await });
    is_task(async move { image.data_extents().await });
}
