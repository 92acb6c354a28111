"""`cache ls|rm`: kept embeddings."""

from pathlib import Path

from fire.decorators import SetParseFns

from evar.errors import UserError, unknown


@SetParseFns(action=str, key=str, cache=str)
def cache(action, key=None, *, cache=None):
    """Show or remove kept embeddings.

    usage: cache ls | cache rm KEY | cache rm all

    KEY            the first digits of a key that `cache ls` shows
    --cache=DIR    the cache folder; default: $EVAR_CACHE or the user's cache folder
    """
    from evar import files
    from evar.embedding import store

    folder = Path(cache or files.cache_folder())
    kept = store.entries(folder)
    if action == "ls":
        for entry in kept:
            model = entry.identity.get("model", {}).get("adapter", "?")
            task = entry.identity.get("task", "?")
            weights = entry.identity.get("model", {}).get("weights", "")[:6]
            options = entry.identity.get("model", {}).get("options", {})
            shown = " ".join([task, *(f"{k}={v}" for k, v in options.items())])
            print(
                f"{entry.key[:12]}  {entry.bytes / 1e6:9.1f} MB  {model:<20} {weights:<6}  {shown}"
            )
        print(f"{len(kept)} keys, {sum(e.bytes for e in kept) / 1e6:,.1f} MB in {folder}")
    elif action == "rm":
        if not key:
            raise UserError("cache rm needs KEY: the first digits that `cache ls` shows, or all")
        chosen = [e for e in kept if key == "all" or e.key.startswith(key)]
        if not chosen and key != "all":
            raise UserError(f"no key begins with {key!r} in {folder}; `cache ls` shows them")
        for entry in chosen:
            store.remove(folder, entry.key)
        plural = "" if len(chosen) == 1 else "s"
        megabytes = sum(e.bytes for e in chosen) / 1e6
        print(f"removed {len(chosen)} key{plural}, {megabytes:,.1f} MB")
    else:
        raise unknown("action", action, ["ls", "rm"])
