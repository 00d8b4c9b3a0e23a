"""study.toml as frozen models, one module for each room of the house; `study_config` puts them together and reads the
file."""
