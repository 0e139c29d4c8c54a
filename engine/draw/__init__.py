"""Pictures of graphs: layout, SVG, and one offline HTML viewer. The only place that knows a colour."""
