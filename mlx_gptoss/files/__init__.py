"""Files and folders of one user: private, and written whole or not at all.

    write(path, "text")                      # mode 0600 by default
    with draft(path) as place: ...           # for a library that writes the file itself
    with scratch(folder) as inside: ...      # a temporary folder, removed afterwards
    connection = connect_private(path, 10)   # SQLite
    config_folder(), data_folder(), cache_folder()

atomic.py          drafts, scratch folders, reasons for failed writes
private_sqlite.py  private files and connections to them
reads.py           byte ranges into existing memory
user_folders.py    where settings, chats and caches are kept
"""

from mlx_gptoss.files.atomic import (
    ANY_FILE,
    NO_LINKS,
    OWNER_FILE,
    OWNER_FOLDER,
    draft,
    explain_os_error,
    is_draft,
    make_folder,
    remove_stale,
    require_writable,
    scratch,
    storage_errors,
    sync,
    sync_folder,
    temporary_folder,
    write,
)
from mlx_gptoss.files.private_sqlite import (
    SQLITE_FULL,
    SQLITE_REASONS,
    connect_private,
    explain_sqlite_error,
    is_sqlite_error,
    make_private_file,
)
from mlx_gptoss.files.reads import Preadv, read_into
from mlx_gptoss.files.user_folders import (
    AGENT_VARIABLES,
    CACHE_VARIABLE,
    HUB_VARIABLES,
    OPTIONAL,
    PROGRAM_NAME,
    cache_folder,
    check_environment_folders,
    config_folder,
    data_folder,
    environment_folder,
    user_home,
)

__all__ = [
    "AGENT_VARIABLES",
    "ANY_FILE",
    "CACHE_VARIABLE",
    "HUB_VARIABLES",
    "NO_LINKS",
    "OPTIONAL",
    "OWNER_FILE",
    "OWNER_FOLDER",
    "PROGRAM_NAME",
    "SQLITE_FULL",
    "SQLITE_REASONS",
    "Preadv",
    "cache_folder",
    "check_environment_folders",
    "config_folder",
    "connect_private",
    "data_folder",
    "draft",
    "environment_folder",
    "explain_os_error",
    "explain_sqlite_error",
    "is_draft",
    "is_sqlite_error",
    "make_folder",
    "make_private_file",
    "read_into",
    "remove_stale",
    "require_writable",
    "scratch",
    "storage_errors",
    "sync",
    "sync_folder",
    "temporary_folder",
    "user_home",
    "write",
]
