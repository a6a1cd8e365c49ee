"""The limit of any network: paths for neurons, random matrices conditioned on their past."""
