"""The configuration: read once, checked once, then a frozen value."""

from zhcached.config.check import GROUP_SIZES
from zhcached.config.read import load
from zhcached.config.tables import (
    DEFAULT_SOURCES,
    ChineseConfig,
    Config,
    ConvertConfig,
    DownloadConfig,
    EncoderConfig,
    FollowConfig,
    PartConfig,
    RecipeConfig,
    ResidencyConfig,
    ServeConfig,
    SourceConfig,
    StoreConfig,
    SwarmConfig,
    WatchConfig,
    WindowConfig,
)

__all__ = [
    "DEFAULT_SOURCES",
    "GROUP_SIZES",
    "ChineseConfig",
    "Config",
    "ConvertConfig",
    "DownloadConfig",
    "EncoderConfig",
    "FollowConfig",
    "PartConfig",
    "RecipeConfig",
    "ResidencyConfig",
    "ServeConfig",
    "SourceConfig",
    "StoreConfig",
    "SwarmConfig",
    "WatchConfig",
    "WindowConfig",
    "load",
]
