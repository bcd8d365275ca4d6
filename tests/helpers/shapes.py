"""The run-time checker behind jaxtyping's shapes: an int will do where a float is asked for."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
