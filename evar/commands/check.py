"""`check MODEL`: whether an adapter works as the harness expects."""

from fire.decorators import SetParseFns

from evar.errors import UserError


@SetParseFns(model=str, weights=str)
def check(model, *, weights=None, **options):
    """Check that a model's adapter works as the harness expects.

    usage: check MODEL [options]

    MODEL            a registered name (`evar list models`), path/to/file.py:ClassName,
                     hf:ORG/NAME or hear:MODULE
    --weights=PATH   checkpoint; "random" checks the untrained network
    --NAME=VALUE     an option of the model's adapter

    Prints one line a check: what failed, and how to fix it. Exit code 0, or 2 if any failed.
    """
    from evar import check as check_

    findings = check_.check_model(model, weights=weights, **options)
    for finding in findings:
        print(finding)
    failed = sum(not finding.ok for finding in findings)
    if failed:
        raise UserError(f"{model}: {failed} of {len(findings)} checks failed")
    print(f"{model}: all {len(findings)} checks passed")
