"""Settings of a fit that takes a second."""

QUICK = {
    "steps": 4,
    "batch_size": 4,
    "target_pool": 4,
    "prior_count": 2,
    "prior_steps": 2,
    "learning_rate": 1e-3,
    "checkpoint_every": 1,
}
