"""One run on many processes: data, shard, tensor, pipeline and context parallelism, and any product of them."""
