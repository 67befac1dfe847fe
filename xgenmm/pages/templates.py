"""HTML pages in the style of the house: templates of the part that they belong to, one style sheet for all.

Every value is escaped unless it is `Markup`; a value that a template names and nobody gave is an error.
"""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template


def page_template(package: str, name: str) -> Template:
    """A template in the folder `page` of a package; `{% include "style.css" %}` in it is the style of the house."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "page"), PackageLoader("xgenmm.pages", "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
