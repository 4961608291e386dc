// What a dashboard's JSON may hold, put together from Grafana's own types. Theirs leave open what a panel's plugin and its
// data source take; here each panel has the options of its plugin, and each query is one of Prometheus.
import type * as grafana from '@grafana/schema';
import type * as bargauge from 'grafana-panels/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as geomap from 'grafana-panels/geomap/panelcfg/x/GeomapPanelCfg_types.gen';
import type * as heatmap from 'grafana-panels/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as histogram from 'grafana-panels/histogram/panelcfg/x/HistogramPanelCfg_types.gen';
import type * as stat from 'grafana-panels/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as table from 'grafana-panels/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from 'grafana-panels/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// JSON has no enums: a member of one is the string that it stands for.
type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;

type DataSource = { type: 'prometheus'; uid: '${datasource}' };

interface Query {
  datasource: DataSource;
  editorMode: 'code' | 'builder';
  expr: string;
  format?: 'time_series' | 'table' | 'heatmap';
  instant: boolean;
  legendFormat: string;
  range: boolean;
  refId: string;
}

type PanelOf<Type extends string, Options, Custom> = Plain<
  Omit<grafana.Panel, 'type' | 'options' | 'fieldConfig' | 'targets' | 'datasource'>
> & {
  type: Type;
  title: string;
  description: string;
  datasource: DataSource;
  options: Plain<Options>;
  fieldConfig: {
    defaults: Plain<Omit<grafana.FieldConfig, 'custom'>> & { unit?: string; custom?: Plain<Custom> };
    overrides: Plain<grafana.FieldConfigSource['overrides']>;
  };
  targets: Query[];
};

type Panel =
  | PanelOf<'bargauge', bargauge.Options, never>
  | PanelOf<'geomap', geomap.Options, grafana.HideableFieldConfig>
  | PanelOf<'heatmap', heatmap.Options, heatmap.FieldConfig>
  | PanelOf<'histogram', histogram.Options, histogram.FieldConfig>
  | PanelOf<'stat', stat.Options, never>
  | PanelOf<'table', table.Options, table.FieldConfig>
  | PanelOf<'timeseries', timeseries.Options, timeseries.FieldConfig>;

type Variable = Plain<Omit<grafana.VariableModel, 'datasource' | 'query'>> &
  (
    | { type: 'datasource'; query: 'prometheus' }
    | { type: 'query'; datasource: DataSource; query: { qryType: 1; query: string; refId: string } }
  );

// What Prometheus' own annotations have beside the fields of all.
type Annotation = Plain<Omit<grafana.AnnotationQuery, 'datasource' | 'target'>> & {
  datasource: DataSource;
  expr: string;
  step: string;
  textFormat: string;
  titleFormat: string;
};

export type Dashboard = Plain<Omit<grafana.Dashboard, 'panels' | 'templating' | 'annotations'>> & {
  uid: string;
  title: string;
  description: string;
  schemaVersion: number;
  panels: (Plain<grafana.RowPanel> | Panel)[];
  templating: { list: Variable[] };
  annotations: { list: Annotation[] };
};
